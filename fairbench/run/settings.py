"""Which tuned settings a method of a suite runs with: its own, those it inherits, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairbench.method.composition import method_parts, resolve_method
from fairbench.run.sources import source_of_training
from fairbench.suites.chosen import Choice, Tuned
from fairbench.suites.sections import MethodSpec
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import Suite

__all__ = ["choice_of", "chosen_options", "describe_settings", "frozen_ids", "source_of"]


def choice_of(
    suite: Suite, name: str, tuned: Tuned, needed: Mapping[str, RunSpec | str], data_hash: str | None
) -> Choice | None:
    """Return the tuned settings of a method, or None without valid ones.

    An ablation has the settings of the method that it takes apart. Settings are void if the suite's budget, the source
    of a plug-in, or a model that the trials were built on has changed since. `data_hash` is None for runs with
    overridden settings, which are never ranked; no choice is void for them. `needed` holds the method's models by need.
    """
    owner = suite.inherits.get(name, name)
    choice = tuned.method(owner)
    if choice is None or data_hash is None:
        return choice
    ids = frozen_ids(needed)
    same = all(ids.get(need, frozen) == frozen for need, frozen in choice.prerequisites.items())
    source = source_of(resolve_method(owner), source_of_training(suite.model, suite.selection, suite.threat))
    valid = (choice.budget, choice.source) == (suite.budget(data_hash, choice.trials), source)
    return choice if same and valid else None


def source_of(method: MethodSpec, training: str | None) -> str:
    """Return what identifies the plug-in code that settings were tuned with: of the method, the network and the
    selection attack.
    """
    return method.source_hash + (training or "")


def chosen_options(name: str, choice: Choice | None) -> dict[str, Any]:
    """Return the chosen hyper-parameters as overrides of a method, which may differ from the method that was tuned.

    A setting that no part of the method has is left out.
    """
    classes = method_parts(name)[1].values()
    fields = {parameter.name for cls in classes for parameter in cls.hyper_parameters()}
    options = {key.rpartition(".")[2]: value for key, value in (choice.options if choice else {}).items()}
    return {f"{name}.{field}": value for field, value in options.items() if field in fields}


def frozen_ids(needed: Mapping[str, RunSpec | str]) -> dict[str, str]:
    """Return ids of the models that a method is given, by need: of a run's settings, or of a checkpoint's content."""
    return {
        need: model.frozen_id if isinstance(model, RunSpec) else model.rpartition("#")[2]
        for need, model in needed.items()
    }


def describe_settings(suite: Suite, specs: Sequence[RunSpec], tuned: Tuned) -> list[str]:
    """Describe in a line each the files of settings that a plan's runs use, and the methods without settings."""
    by_file: dict[str, list[str]] = {}
    untuned: list[str] = []
    void: list[str] = []
    for spec in {spec.label: spec for spec in specs if spec.tuning is not None}.values():
        student = spec.role == "student"
        label = tuned.label(suite.inherits.get(spec.label, spec.label) if student else spec.role.replace("-", "_"))
        if spec.tuning != "untuned":
            by_file.setdefault(str(label), []).append(spec.label)
        else:
            untuned.append(spec.label)
            void += [spec.label] if label else []
    lines = [f"tuned settings of {', '.join(names)}: {label}" for label, names in by_file.items()]
    if untuned:
        lines.append(
            f"untuned: {', '.join(untuned)}; trained with the suite's recipe and not ranked against tuned methods; "
            "`fairbench tune` finds settings"
        )
    if void:
        lines.append(
            f"the tuned settings of {', '.join(void)} are void: the suite, the plug-in's source, or a teacher or warm "
            "start has changed since; `fairbench tune` finds new ones"
        )
    return lines
