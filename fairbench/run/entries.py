"""The entries of a run's record that follow from its specification and its verdicts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from fairbench import distributed
from fairbench.data import Dataset
from fairbench.leaderboard.changed import changed_key
from fairbench.results import provenance
from fairbench.results.record import MAX_PROTOCOLS
from fairbench.statistics.metrics import summarise
from fairbench.suites.spec import RunSpec

__all__ = [
    "header_of",
    "headline_figures",
    "is_recorded",
    "protocol_key",
    "protocol_of",
    "standing_of",
    "with_protocol",
]


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
    """The key of `protocol_of` in a run's record: the suite's version, with changed settings also their hash."""
    return changed_key(spec.version, spec.changes or spec.protocol) if spec.custom else str(spec.version)


def is_recorded(spec: RunSpec, record: Mapping[str, Any]) -> bool:
    """Whether a complete run's record has the spec's protocol.

    Older records have that of changed settings under the suite's version.
    """
    protocols = record["protocols"]
    entry = protocols.get(protocol_key(spec), protocols.get(str(spec.version), {}))
    return {name: value for name, value in entry.items() if name != "command"} == protocol_of(spec)


def with_protocol(spec: RunSpec, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that say which boards its run is on, with the spec's protocol added.

    The suite's own command describes the run, also where changed settings made it first: those have their command in
    their entry. Above the number of protocols that a record may have, the oldest of changed settings go.
    """
    key, protocols = protocol_key(spec), dict(record.get("protocols", {}))
    before = protocols.get(str(spec.version))
    if before and before["custom"]:  # of an older record
        protocols[changed_key(spec.version, before["hash"])] = protocols.pop(str(spec.version))
    protocols[key] = protocol_of(spec) | ({"command": spec.command} if spec.custom else {})
    surplus = [name for name, entry in protocols.items() if entry["custom"] and name != key]
    for name in surplus[: max(0, len(protocols) - MAX_PROTOCOLS)]:
        del protocols[name]
    own = record["spec"].get("custom") and not spec.custom
    return {"protocols": protocols} | ({"spec": spec.model_dump(mode="json")} if own else {})


def standing_of(record: Mapping[str, Any], stored: Collection[str]) -> str:
    """The status of a trained run while attacks are added to it; `stored` holds the keys of its verdicts.

    It is "complete" if every attack of the protocols that the record has is there, so that their boards keep the run.
    """
    protocols, known = record.get("protocols", {}), record["evaluations"].keys() & set(stored)
    asked = {f"{kind}/{text}" for entry in protocols.values() for kind in ("best", "last") for text in entry[kind]}
    return "complete" if protocols and asked <= known else "trained"


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
