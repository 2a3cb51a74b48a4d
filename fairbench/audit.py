"""One checkpoint, many attacks: the answer to "which class does it betray?" as text, JSON and files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairbench.evaluate import evaluate
from fairbench.files import atomic, write_json
from fairbench.launch import progress_view
from fairbench.verdicts import UNION, Report

__all__ = ["as_dict", "audit", "save"]

STANDARD = ("clean", "fgsm", "pgd-20", "cw-30", "autoattack")


def audit(
    model: str,
    dataset: str,
    *,
    attacks: Sequence[str] | None = None,
    norm: str = "Linf",
    eps: float = 8 / 255,
    batch_size: int = 250,
    seed: int = 0,
    out: Path | None = None,
) -> Report:
    """Evaluate a checkpoint with progress on stderr and save the report to folder `out`.

    Other arguments and errors are those of `evaluate`.
    """
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written should not cost an evaluation
    with progress_view() as view:
        row = view.start(Path(model).name)
        report = evaluate(
            model,
            dataset,
            attacks=attacks or STANDARD,
            norm=norm,  # type: ignore[arg-type]
            eps=eps,
            batch_size=batch_size,
            seed=seed,
            progress=lambda attack, done, total: row.update(attack, done, total, ""),
        )
        row.finish("done")
    if out is not None:
        save(report, out)
    return report


def as_dict(report: Report) -> dict[str, Any]:
    """Every figure of a report by attack, JSON-ready: not-a-number is null."""
    figures = {
        attack: {key: _plain(value) for key, value in report.summary(attack).as_dict().items()}
        for attack in [*report.verdicts, UNION]
    }
    return {
        "betrayed_class": report.class_names[report.worst_class],
        "class_names": list(report.class_names),
        "attacks": figures,
    }


def save(report: Report, folder: Path) -> None:
    """Write `report.json` and `verdicts.npz` (labels and one array of predicted classes per attack) to a folder."""
    write_json(folder / "report.json", as_dict(report))
    with atomic(folder / "verdicts.npz") as temporary, temporary.open("wb") as handle:
        arrays: dict[str, Any] = {"labels": report.verdicts.labels, **report.verdicts}
        np.savez_compressed(handle, **arrays)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value
