"""Hashes of the plug-in code that a result depends on; the version of the package identifies its own code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairbench.attacks import Threat, resolve
from fairbench.models.architectures import builder_of
from fairbench.plugins.source import content_id, own_files
from fairbench.suites.sections import Selection
from fairbench.suites.spec import RunSpec

__all__ = ["outdated", "source_of_attack", "source_of_training"]


def source_of_training(model: str, selection: Selection, threat: Threat) -> str | None:
    """Hash of the plug-in files that define a run's network, and the attack that selects its epoch.

    None if both are part of fairbench. Raises what `builder_of` and `resolve` raise.
    """
    attack = () if selection.rule == "last" else resolve(selection.attack, threat).parts
    return content_id(own_files([builder_of(model), *attack]))


def source_of_attack(text: str, threat: Threat) -> str | None:
    """Hash of the plug-in files that define an attack and its loss; None if both are part of fairbench."""
    return content_id(own_files(resolve(text, threat).parts))


def outdated(spec: RunSpec, record: Mapping[str, Any]) -> set[str]:
    """The `checkpoint/attack` keys of a spec whose stored verdicts are those of other plug-in code."""
    stored = record.get("evaluations", {})
    kinds = {"best": spec.evaluation.best, "last": spec.evaluation.last}
    sources = {text: source_of_attack(text, spec.threat) for text in {*kinds["best"], *kinds["last"]}}
    asked = {f"{kind}/{text}": sources[text] for kind, texts in kinds.items() for text in texts}
    return {key for key, source in asked.items() if key in stored and stored[key].get("source_hash") != source}
