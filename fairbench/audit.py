"""One checkpoint, many attacks: the answer to "which class does it betray?" as text, JSON, a page and files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairbench.attacks import Ball
from fairbench.attacks.projections import AnyNorm
from fairbench.data.dataset import Dataset
from fairbench.data.sources import load_test
from fairbench.evaluate import evaluate
from fairbench.exhibits import exhibit
from fairbench.files import atomic, write_json, write_text
from fairbench.launch import progress_view
from fairbench.models.zoo import open_model
from fairbench.report import model as model_page
from fairbench.report.page import fraction
from fairbench.verdicts import UNION, Report

__all__ = ["as_dict", "audit", "save"]

STANDARD = ("clean", "fgsm", "pgd-20", "cw-30", "autoattack")


def audit(
    model: str,
    dataset: str,
    *,
    arch: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    attacks: Sequence[str] | None = None,
    norm: AnyNorm = "Linf",
    eps: float = 8 / 255,
    batch_size: int = 250,
    device: str | None = None,
    seed: int = 0,
    out: Path | None = None,
    page: Path | None = None,
) -> Report:
    """Evaluate a model with progress on stderr, save the report to folder `out` and write the page about it to `page`.

    `arch`, `mean` and `std` as for `open_model`, the other arguments and errors as for `evaluate`; by default a GPU is
    used where there is one.
    """
    for folder in [path for path in (out, page and page.parent) if path is not None]:
        folder.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written should not cost an evaluation
    split, class_names = load_test(dataset)
    data, ball = Dataset(dataset, split, split, class_names), Ball(norm, eps)
    network = open_model(model, arch=arch, num_classes=data.num_classes, shape=data.shape, mean=mean, std=std)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with progress_view() as view:
        row = view.start(Path(model).name)

        def progress(stage: str, done: int, total: int) -> None:
            row.update(stage, done, total, "")

        report = evaluate(
            network,
            data,
            attacks=attacks or STANDARD,
            norm=norm,
            eps=eps,
            batch_size=batch_size,
            device=where,
            seed=seed,
            progress=progress,
        )
        if page is not None:
            exhibits = exhibit(network, split.images, split.labels, ball, device=where, seed=seed, progress=progress)
            facts = {"Data:": dataset, "threat:": f"{norm} {fraction(eps)}", "attacks:": ", ".join(report.verdicts)}
            write_text(page, model_page.page(report, exhibits, title=Path(model).name, facts=facts))
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
        "threat": None if report.threat is None else dict(zip(("norm", "eps"), report.threat, strict=True)),
        "attacks": figures,
        "flags": {name: {"value": flag.value, "red": flag.red} for name, flag in report.flags.items()},
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
