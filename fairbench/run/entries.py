"""The entries of a run's record that follow from its specification and its verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fairbench import distributed
from fairbench.data import Dataset
from fairbench.results import provenance
from fairbench.statistics.metrics import summarise
from fairbench.suites.spec import RunSpec

__all__ = ["header_of", "headline_figures", "protocol_entry", "protocol_key", "protocol_of"]


def headline_figures(stored: dict[str, Any], labels: Any, num_classes: int) -> dict[str, dict[str, Any]]:
    """Headline figures for a reader of `run.json`; the leaderboard computes its own figures from the verdicts."""
    found = {}
    for key, predicted in stored.items():
        summary = summarise(labels, predicted, num_classes)
        found[key] = {
            "average": round(summary.average, 4),
            "worst": round(summary.worst, 4),
            "worst_class": int(summary.worst_class),
            "nsd": round(summary.nsd, 4) if np.isfinite(summary.nsd) else None,
        }
    return found


def protocol_key(spec: RunSpec) -> str:
    """The key of `protocol_of` in a run's record: the suite's version, with changed settings also the protocol."""
    return f"{spec.version}.custom-{spec.protocol}" if spec.custom else str(spec.version)


def protocol_entry(spec: RunSpec, record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The entry for a spec's protocol in a run's record; older records have changed settings under the version."""
    protocols = record["protocols"]
    found: Mapping[str, Any] | None = protocols.get(protocol_key(spec), protocols.get(str(spec.version)))
    return found


def protocol_of(spec: RunSpec) -> dict[str, Any]:
    """The entry for a suite's version in a run's record, which decides the board of the run's rows and its schema."""
    metrics = {} if spec.evaluation.metrics is None else {"metrics": spec.evaluation.metrics}
    return {
        "hash": spec.protocol,
        "best": list(spec.evaluation.best),
        "last": list(spec.evaluation.last),
        "quick": spec.quick,
        "custom": spec.custom,
        **metrics,
        **({} if spec.tuning is None else {"budget": spec.budget, "tuning": spec.tuning}),
    }


def header_of(spec: RunSpec, dataset: Dataset) -> dict[str, Any]:
    """The fields that a run's record has in every state: its names, its spec, its classes and its provenance."""
    return {
        "run_id": spec.run_id,
        "suite": spec.suite,
        "method": spec.label,
        "seed": spec.seed,
        "spec": spec.model_dump(mode="json"),
        "class_names": list(dataset.class_names),
        "provenance": provenance.as_record(),
        "ranks": distributed.world(),
    }
