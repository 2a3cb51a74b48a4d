"""The settings that tuning chose, and their files: the user's own, and those shipped with the package."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from fairbench.errors import InvalidInput
from fairbench.suites.mapping import read_mapping
from fairbench.suites.suite import HOME, Suite, is_built_in, load_suite
from fairbench.suites.values import Frozen, Name, validated

__all__ = [
    "Choice",
    "Chosen",
    "Source",
    "Tuned",
    "chosen_text",
    "find_chosen",
    "read_chosen",
    "shipped_path",
    "user_path",
]


class Choice(Frozen):
    """The settings that tuning chose for one method or prerequisite, and the conditions that they were chosen under.

    `recipe` holds settings of the recipe, `options` hyper-parameters by `component.field`. `frozen` is the id of the
    run that a prerequisite's settings describe; `prerequisites` holds these ids for the models that the trials were
    built on. The figures are fractions of the held-out images, means over the seeds of the chosen setting.
    """

    recipe: Mapping[str, Any] = Field(default_factory=dict)
    options: Mapping[str, Any] = Field(default_factory=dict)
    trials: int = Field(ge=1)
    budget: str
    source: str = ""
    prerequisites: Mapping[str, str] = Field(default_factory=dict)
    frozen: str | None = None
    score: float
    score_se: float
    average: float
    worst: float
    seeds: int = 1


class Chosen(Frozen):
    """All settings chosen for one version of a suite: `prerequisites` by need, `methods` by name."""

    suite: Name
    version: int
    prerequisites: Mapping[str, Choice] = Field(default_factory=dict)
    methods: Mapping[str, Choice] = Field(default_factory=dict)

    def without(self, settings: Collection[str]) -> Chosen:
        """Leave some settings of the recipe out of every entry."""
        kept = {
            part: {
                name: entry.model_copy(
                    update={"recipe": {key: value for key, value in entry.recipe.items() if key not in settings}}
                )
                for name, entry in getattr(self, part).items()
            }
            for part in ("prerequisites", "methods")
        }
        return self.model_copy(update=kept)


@dataclass(frozen=True)
class Source:
    """One file of chosen settings."""

    label: str
    chosen: Chosen


@dataclass(frozen=True)
class Tuned:
    """The settings that a plan applies; of several files the first with an entry counts."""

    sources: Sequence[Source] = ()

    def marks(self, suite: Suite, data_hash: str, entry: Choice | None, inherited: bool = False) -> dict[str, Any]:
        """The fields of a run specification that describe its tuning; none if neither the suite nor a file mentions
        tuning.
        """
        if suite.is_quick or not (suite.tuning or self.sources):
            return {}
        mark = "untuned" if entry is None else "inherited" if inherited else "tuned"
        return {"budget": suite.budget(data_hash, entry.trials if entry else None), "tuning": mark}

    def without(self, settings: Collection[str]) -> Tuned:
        """Leave out settings of the recipe that the user overrides."""
        return Tuned([Source(source.label, source.chosen.without(settings)) for source in self.sources])

    def prerequisites_only(self) -> Tuned:
        """Keep the entries of teachers and warm starts alone, with which the trials of methods are planned."""
        empty: dict[str, Any] = {"methods": {}}
        return Tuned([Source(source.label, source.chosen.model_copy(update=empty)) for source in self.sources])

    def prerequisite(self, need: str) -> Choice | None:
        """The settings chosen for a teacher or a warm start, None without an entry."""
        return next((source.chosen.prerequisites[need] for source in self._with("prerequisites", need)), None)

    def method(self, name: str) -> Choice | None:
        """The settings chosen for a method, None without an entry."""
        return next((source.chosen.methods[name] for source in self._with("methods", name)), None)

    def label(self, name: str) -> str | None:
        """The file that holds the settings of a method, or of a need such as `teacher`; None without an entry."""
        found = [*self._with("methods", name), *self._with("prerequisites", name)]
        return found[0].label if found else None

    def _with(self, part: str, name: str) -> list[Source]:
        return [source for source in self.sources if name in getattr(source.chosen, part)]


def chosen_text(chosen: Chosen) -> str:
    """Return chosen settings as YAML; equal settings give equal text."""
    return yaml.safe_dump(chosen.model_dump(mode="json", exclude_defaults=True), sort_keys=True, width=100)


def user_path(root: Path, suite: str, version: int) -> Path:
    """The file below a root folder to which the user's own tuning writes its choice."""
    return root / "tuning" / suite / f"v{version}.yaml"


def shipped_path(suite: str, version: int) -> Path:
    """The file in which the package ships the settings of one of its own suites."""
    return HOME / "tuned" / f"{suite}-v{version}.yaml"


def find_chosen(name: str, suite: Suite, root: Path) -> Tuned:
    """Return the settings chosen for a suite: the user's below `root` first, then those shipped with the package.

    `name` is the name or path by which the suite was opened. A suite from a file outside the package gets none of the
    shipped settings, whatever its name, and no file beside it is read. Raises CorruptFile and InvalidInput.
    """
    if suite.is_quick:
        return Tuned()
    owner = load_suite(suite.tuned_on) if suite.tuned_on else suite
    paths = [user_path(root, owner.name, owner.version)]
    if is_built_in(name) and (suite.tuned_on is None or is_built_in(suite.tuned_on)):
        paths.append(shipped_path(owner.name, owner.version))
    labels = ["yours", "shipped with the package"]
    sources = [
        Source(f"{path} ({label})", read_chosen(path, owner))
        for path, label in zip(paths, labels, strict=False)
        if path.is_file()
    ]
    return Tuned(sources)


def read_chosen(path: Path, suite: Suite) -> Chosen:
    """Read a suite's file of chosen settings; raises CorruptFile, and InvalidInput for a file of another suite or
    version.
    """
    chosen = validated(Chosen, read_mapping(path, str(path)), str(path))
    if (chosen.suite, chosen.version) != (suite.name, suite.version):
        raise InvalidInput(f"{path}: of {chosen.suite} version {chosen.version}, not {suite.name} {suite.version}")
    return chosen
