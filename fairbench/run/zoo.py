"""Suites of published models: finding the models' files, planning their runs, and opening their weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import nn

from fairbench.data import Dataset
from fairbench.errors import CorruptFile, FairbenchError, Missing, UnknownName
from fairbench.files import at_home, checksum
from fairbench.models import weights_hash
from fairbench.models.opening import open_model
from fairbench.models.robustbench import model_files
from fairbench.suites.models import PublishedModel
from fairbench.suites.sections import Evaluation, MethodSpec, Published, Recipe, Selection
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import Suite

__all__ = [
    "absent_models",
    "architecture_of",
    "find_models",
    "is_listed",
    "models_folder",
    "open_published",
    "published_runs",
    "published_sections",
]

# At most this many missing models are listed.
_SHOWN = 8

Place = tuple[PublishedModel, str | None]


def models_folder(named: Path | None = None) -> Path:
    """Return the folder of published models: the one named, $FAIRBENCH_MODELS, or ~/.cache/fairbench/models."""
    return at_home(str(named or os.environ.get("FAIRBENCH_MODELS") or "~/.cache/fairbench/models"))


def find_models(suite: Suite, folder: Path, names: Sequence[str] | None = None) -> list[Place]:
    """Return every model of a suite, or those named, with the text that opens it, None without its file.

    Raises UnknownName for a name that the suite does not list.
    """
    listed = {entry.name: entry for entry in suite.checkpoints}
    for name in names or ():
        if name not in listed:
            raise UnknownName(f"checkpoint of {suite.name}", name, listed)
    return [(listed[name], _place(listed[name], folder)) for name in dict.fromkeys(names or listed)]


def absent_models(suite: Suite, named: Path | None, names: Sequence[str] | None) -> list[str]:
    """Return a line for each model of a suite of checkpoints without a file: its name and its source."""
    folder = models_folder(named)
    places = find_models(suite, folder, names if suite.checkpoints else None)
    absent = [_described(entry) for entry, place in places if place is None]
    further = [f"and {len(absent) - _SHOWN} more models that are not there"] if len(absent) > _SHOWN else []
    return [*(f"not in {folder}: {told}" for told in absent[:_SHOWN]), *further]


def _described(entry: PublishedModel) -> str:
    if entry.robustbench is not None:
        return f"{entry.name}, robustbench:{entry.robustbench}"
    return f"{entry.name} ({' or '.join(entry.files)}), licence {entry.license or 'not known'}, from {entry.source}"


def published_runs(
    suite: Suite, places: Sequence[Place], dataset: Dataset, custom: bool, shared: Mapping[str, Any]
) -> list[RunSpec]:
    """Return a run for every model that has a file, which evaluates it and trains nothing.

    Raises Missing if no model has one; the message names the source of the first.
    """
    if not any(place for _, place in places):
        first = _described(places[0][0])
        raise Missing(
            f"suite {suite.name}: none of its {len(places)} models is in the folder that --models names; the first is "
            f"{first}"
        )
    return [
        RunSpec(
            method=MethodSpec(name=entry.name, base="checkpoint", provenance="checkpoint"),
            model=architecture_of(entry),
            recipe=Recipe(),
            seed=0,
            checkpoint=place,
            published=Published(num_classes=dataset.num_classes, shape=dataset.shape, mean=entry.mean, std=entry.std),
            custom=custom,
            **{**shared, **published_sections(suite)},
        )
        for entry, place in places
        if place is not None
    ]


def published_sections(suite: Suite) -> dict[str, Selection | Evaluation]:
    """Return the sections in which a published model's run differs from its suite: it has one checkpoint, the last."""
    return {
        "selection": suite.selection.model_copy(update={"rule": "last"}),
        "evaluation": suite.evaluation.model_copy(update={"last": ()}),
    }


def architecture_of(entry: PublishedModel) -> str:
    """Return what the run of a published model states as its model."""
    return entry.model or f"robustbench:{entry.robustbench}"


def is_listed(spec: RunSpec, suite: Suite) -> bool:
    """Whether the suite lists the published model of a run, with its architecture and the weights of its file."""
    entry = next((entry for entry in suite.checkpoints if entry.name == spec.method.name), None)
    if entry is None or spec.checkpoint is None or spec.model != architecture_of(entry):
        return False
    return entry.weights is None or spec.checkpoint.rpartition("#")[2] == entry.weights[:12]


def open_published(spec: RunSpec) -> nn.Module:
    """Open the weights of a published model's run, on the CPU in eval mode.

    Raises CorruptFile for a file with other weights than the suite names, and what `open_model` raises.
    """
    assert spec.checkpoint is not None
    assert spec.published is not None
    place, _, expected = spec.checkpoint.rpartition("#")
    if place.startswith("robustbench:"):
        name, _, folder = place.removeprefix("robustbench:").partition("@")
        if _digest(model_files(name, Path(folder))) != expected:
            raise CorruptFile(f"{place}: changed since the run was planned")
        return open_model(f"robustbench:{name}", folder=Path(folder))
    path, published = Path(place.removeprefix("file:")), spec.published
    bare = open_model(path, arch=spec.model, num_classes=published.num_classes, shape=published.shape)
    if not weights_hash(bare).startswith(expected):
        raise CorruptFile(f"{path}: holds other weights than the suite {spec.suite} names for {spec.method.name}")
    return open_model(
        path,
        arch=spec.model,
        num_classes=published.num_classes,
        shape=published.shape,
        mean=published.mean,
        std=published.std,
    )


def _place(entry: PublishedModel, folder: Path) -> str | None:
    """The text that a run stores of a model: `file:PATH#HASH`, `robustbench:NAME@FOLDER#HASH`, None without a file."""
    if entry.robustbench is not None:
        try:
            files = model_files(entry.robustbench, folder)
        except FairbenchError:  # the extra is not installed, or RobustBench does not list the model
            return None
        there = all(path.is_file() for path in files)
        return f"robustbench:{entry.robustbench}@{folder}#{_digest(files)}" if there else None
    assert entry.weights is not None
    found: Iterator[Path] = (folder / file for file in entry.files)
    path = next((path for path in found if path.is_file()), None)
    return None if path is None else f"file:{path}#{entry.weights[:12]}"


def _digest(files: Sequence[Path]) -> str:
    return sha256(" ".join(map(checksum, files)).encode()).hexdigest()[:12]
