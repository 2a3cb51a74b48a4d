"""Run folders as a finished benchmark leaves them, with verdicts given by hand, and the boards built from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairbench.leaderboard.builder import build_boards
from fairbench.results.folder import RunFolder
from fairbench.suites.sections import DataConfig, Environment, Evaluation, MethodSpec, Recipe, Selection, ThreatSection
from fairbench.suites.spec import RunSpec

NAMES = ("cat", "dog")
LABELS = [0, 0, 0, 0, 1, 1, 1, 1]
CLEAN = [0, 0, 0, 1, 1, 1, 1, 1]
PGD = [1, 0, 0, 1, 0, 0, 0, 1]


def run_spec(method: str | MethodSpec = "sat", seed: int = 0, **changes: Any) -> RunSpec:
    """A run of a suite of two classes under two attacks; `changes` replace whole fields."""
    if isinstance(method, str):
        method = MethodSpec(name=method, base="sat", policies=("p", "q"), provenance="paper")
    fields: dict[str, Any] = {
        "suite": "tiny",
        "version": 1,
        "method": method,
        "data": DataConfig(name="npz:/somewhere/train.npz,/somewhere/test.npz"),
        "data_hash": "d",
        "model": "small-cnn",
        "recipe": Recipe(),
        "threat": ThreatSection(),
        "selection": Selection(),
        "evaluation": Evaluation(best=("clean", "pgd-20"), last=("clean",)),
        "seed": seed,
        "environment": Environment(torch="2.15.0"),
        "protocol": "a1",
        "command": "fairbench run tiny, twice",
    }
    return RunSpec(**{**fields, **changes})


def store(
    results: Path,
    spec: RunSpec,
    predicted: Mapping[str, Sequence[int]] | None = None,
    *,
    names: Sequence[str] = NAMES,
    labels: Sequence[int] = LABELS,
    created: str = "2026-01-01T00:00:00Z",
    **record: Any,
) -> RunFolder:
    """Write a complete run with these verdicts; `record` replaces or adds fields of `run.json`."""
    folder = RunFolder(results / spec.folder)
    predicted = predicted or {"best/clean": CLEAN, "best/pgd-20": PGD, "last/clean": CLEAN}
    folder.write_verdicts(np.array(labels), {key: np.array(value) for key, value in predicted.items()})
    protocol = {"hash": spec.protocol, "quick": spec.quick, "custom": spec.custom}
    protocol |= {kind: list(getattr(spec.evaluation, kind)) for kind in ("best", "last")}
    folder.write(
        {
            "run_id": spec.run_id,
            "suite": spec.suite,
            "method": spec.label,
            "seed": spec.seed,
            "spec": spec.model_dump(mode="json"),
            "class_names": list(names),
            "provenance": {
                "commit": "c0ffee",
                "dirty": False,
                "packages": {"python": "3.11.7", "torch": "2.15.0", "cuda": "12.8"},
                "created": created,
            },
            "status": "complete",
            "cost": {
                "train_seconds": 2.0 + spec.seed,
                "forwards": 100,
                "backwards": 90,
                "flops": 1000,
                "peak_memory_mb": 12.34,
            },
            "evaluations": {key: {"seconds": 1.5} for key in predicted},
            "weights": {"best": "b", "last": "l"},
            "metrics": {},
            "protocols": {str(spec.version): protocol},
            **record,
        }
    )
    return folder


def build_board(root: Path, suite: str = "tiny") -> list[Path]:
    """Build a suite's boards of `root`/results into `root`/leaderboards."""
    return build_boards(root / "results", root / "leaderboards", suite)
