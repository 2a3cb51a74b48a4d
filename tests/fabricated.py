"""Run folders whose verdicts are made up, so that what is true of them is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import stored
from stored import run_spec

from fairbench.results.folder import RunFolder
from fairbench.suites.sections import Evaluation, MethodSpec

__all__ = ["store", "verdicts"]


def verdicts(right: Sequence[int], images: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predicted classes [N] of which the first right[c] of each class's images are right."""
    labels = np.repeat(np.arange(len(right)), images)
    position = np.arange(len(labels)) % images
    return labels, np.where(position < np.array(right)[labels], labels, (labels + 1) % len(right))


def store(
    results: Path,
    labels: np.ndarray,
    attacks: Mapping[str, np.ndarray],
    *,
    method: str = "sat",
    seed: int = 0,
    names: Sequence[str] | None = None,
    created: str = "2026-01-01T00:00:00Z",
    seconds: float = 2.0,
    flops: int = 1000,
    flags: Mapping[str, Any] | None = None,
    **changes: Any,
) -> RunFolder:
    """Write a complete run with these verdicts of its best checkpoint; `changes` replace fields of its RunSpec."""
    own = MethodSpec(name=method, base="sat", provenance="paper")
    spec = run_spec(own, seed, **{"evaluation": Evaluation(best=tuple(attacks), last=()), **changes})
    return stored.store(
        results,
        spec,
        {f"best/{attack}": predicted for attack, predicted in attacks.items()},
        names=names or [f"class-{index}" for index in range(labels.max() + 1)],
        labels=labels,
        created=created,
        cost={"train_seconds": seconds, "forwards": 9, "backwards": 9, "flops": flops, "peak_memory_mb": 1.0},
        **({} if flags is None else {"flags": {"best": dict(flags)}}),
    )
