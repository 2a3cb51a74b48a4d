"""The models that methods need before they start: teachers and warm starts, as runs of the plan or as checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from fairbench.data import Dataset
from fairbench.errors import InvalidInput, Missing
from fairbench.method.composition import build_method, resolve_method
from fairbench.models import load_checkpoint
from fairbench.run.sources import source_of_training
from fairbench.run.zoo import published_sections
from fairbench.suites.chosen import Choice, Tuned
from fairbench.suites.models import TeacherSpec
from fairbench.suites.sections import MethodSpec, Recipe
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import PREREQUISITES, Suite

__all__ = ["evaluation_of", "prerequisites"]


def prerequisites(
    suite: Suite,
    methods: Sequence[MethodSpec],
    custom: bool,
    tuned: Tuned,
    shared: Mapping[str, Any],
    *,
    num_classes: int,
) -> dict[str, RunSpec | str]:
    """Return the teachers and the warm start that the methods need, each once, by need.

    `shared` holds the settings that all runs of the plan have in common, and `num_classes` decides the default
    hyper-parameters of their methods. A run has the settings that tuning chose for it; where there are none, or the
    suite has changed since, it has those of the suite. Raises InvalidInput for a need that the suite does not name,
    Missing for a checkpoint file that does not exist.
    """
    found: dict[str, RunSpec | str] = {}
    for spec in methods:
        for need in sorted(build_method(spec).required):
            if need not in PREREQUISITES or need in found:
                continue
            described: TeacherSpec | None = getattr(suite, need)
            if described is None:
                raise InvalidInput(
                    f"method {spec.name} needs a {need.replace('_', ' ')}, which {suite.name} does not name"
                )
            found[need] = _prerequisite(suite, need, described, custom, tuned, shared, num_classes)
    return found


def _prerequisite(
    suite: Suite,
    need: str,
    spec: TeacherSpec,
    custom: bool,
    tuned: Tuned,
    shared: Mapping[str, Any],
    num_classes: int,
) -> RunSpec | str:
    """The run that trains a needed model, or the path of the suite's checkpoint with the hash of its content."""
    if spec.checkpoint is not None:
        path = Path(spec.checkpoint.removeprefix("file:"))
        if not path.is_file():
            raise Missing(f"suite {suite.name}: {need} {spec.checkpoint}: no such file")
        return f"file:{path}#{sha256(path.read_bytes()).hexdigest()[:12]}"
    if need == "natural_teacher":  # its robust accuracy is about 0 at every epoch: selection would pick an early epoch
        shared = {**shared, "selection": suite.selection.model_copy(update={"rule": "last"})}
    model = spec.model or suite.model
    where = f"suite {suite.name}'s {need.replace('_', ' ')}"

    def run(choice: Choice | None) -> RunSpec:
        return RunSpec(
            method=resolve_method(spec.method, {} if choice is None else choice.options, num_classes=num_classes),
            role=need.replace("_", "-"),
            model=model,
            source_hash=source_of_training(model, shared["selection"], suite.threat),
            recipe=suite.recipe.override({**spec.recipe, **({} if choice is None else choice.recipe)}, where),
            seed=spec.seed,
            custom=custom,
            **tuned.marks(suite, shared["data_hash"], choice),
            **shared,
        )

    choice = tuned.prerequisite(need)
    if choice is not None and (custom or choice.budget == suite.budget(shared["data_hash"], choice.trials)):
        chosen = run(choice)
        if custom or chosen.frozen_id == choice.frozen:
            return chosen
    return run(None)


def evaluation_of(
    suite: Suite, need: str, checkpoint: str, dataset: Dataset, custom: bool, shared: Mapping[str, Any]
) -> RunSpec:
    """Return the run that evaluates a checkpoint once, for its row beside its students', and trains nothing.

    Raises InvalidInput for a checkpoint that was made for other images or classes.
    """
    path = Path(checkpoint.rpartition("#")[0].removeprefix("file:"))
    _, found = load_checkpoint(path)
    if (found.num_classes, found.shape) != (dataset.num_classes, dataset.shape):
        raise InvalidInput(
            f"suite {suite.name}: {need} {path}: made for {found.num_classes} classes of images {found.shape}, but "
            f"{suite.data.name} has {dataset.num_classes} of {dataset.shape}"
        )
    found.check_order(path, dataset.class_names)
    return RunSpec(
        method=MethodSpec(name="checkpoint", base="checkpoint"),
        role=need.replace("_", "-"),
        model=found.spec,
        recipe=Recipe(),
        seed=0,
        checkpoint=checkpoint,
        custom=custom,
        **{**shared, **published_sections(suite)},
    )
