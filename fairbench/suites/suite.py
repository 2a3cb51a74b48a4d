"""A suite, which fixes everything that a benchmark compares under, and its YAML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from fairbench.errors import InvalidInput, Missing, UnknownName
from fairbench.plugins.calls import code_of_attack, names_code, parse_value, split_calls
from fairbench.suites.mapping import read_mapping
from fairbench.suites.models import PublishedModel, TeacherSpec
from fairbench.suites.sections import DataConfig, Evaluation, Recipe, Selection, ThreatSection
from fairbench.suites.values import Frozen, Name, Real, Seed, digest, validated

__all__ = ["PREREQUISITES", "SECTIONS", "Suite", "Tuning", "is_built_in", "load_suite", "suite_paths"]

# The parts of a suite whose settings `--set SECTION.NAME=VALUE` may change, and the models that students may need.
SECTIONS = ("recipe", "threat", "data", "selection", "evaluation")
PREREQUISITES = ("teacher", "natural_teacher", "warm_start")

HOME = Path(__file__).parent
METRICS_VERSION = 1

# Settings that tuning or a method's own recipe may change: rows whose recipes differ in these alone share a budget.
TUNABLE = ("lr", "momentum", "nesterov", "weight_decay", "schedule", "milestones", "gamma")


class Tuning(Frozen):
    """How every method of a suite finds its settings: the same number of trials, learning rates, seeds and score.

    The rates `lr` are tried in this order with the first of the `seeds`; the score is the mean over the last `epochs`
    epochs. `confirm` of the trials are reserved for further seeds of the two best settings.
    """

    lr: tuple[Annotated[Real, Field(gt=0)], ...] = Field((0.05, 0.1, 0.2, 0.4), min_length=1)
    trials: int = Field(8, ge=1)
    confirm: int = Field(2, ge=0)
    seeds: tuple[Seed, ...] = Field((1000, 1001, 1002), min_length=1)
    epochs: int = Field(10, ge=1)


class Suite(Frozen):
    """Everything a benchmark fixes. The protocol is the part of it that evaluation depends on.

    `tuned_on` names the suite whose tuned settings this one uses, None for its own. `inherits` maps a method without
    trials of its own to the method whose tuned settings it takes: an ablation to the method that it takes apart. A
    suite of `checkpoints` evaluates published models and trains nothing.
    """

    name: Name
    version: int = Field(1, ge=1, le=999_999_999)
    summary: str = ""
    data: DataConfig
    model: str = ""
    checkpoints: tuple[PublishedModel, ...] = ()
    teacher: TeacherSpec | None = None
    natural_teacher: TeacherSpec | None = None
    warm_start: TeacherSpec | None = None
    recipe: Recipe = Recipe()
    threat: ThreatSection = ThreatSection()
    selection: Selection = Selection()
    evaluation: Evaluation = Evaluation()
    tuning: Tuning | None = None
    tuned_on: Name | None = None
    inherits: Mapping[str, str] = Field(default_factory=dict)
    methods: tuple[str, ...] = ()
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    quick: Mapping[str, Any] = Field(default_factory=dict)
    is_quick: bool = False

    @model_validator(mode="after")
    def _in_pixel_units(self) -> Suite:
        threat = self.threat
        if threat.norm == "Linf" and threat.eps > 1:
            raise InvalidInput(
                f"suite {self.name}: threat.eps is in pixel units of [0,1]; {threat.eps:g}/255 may be meant"
                f", not {threat.eps:g}"
            )
        return self

    @model_validator(mode="after")
    def _trains_or_evaluates(self) -> Suite:
        names = [listed.name for listed in self.checkpoints]
        if self.checkpoints and (self.methods or self.model):
            raise ValueError("a suite has methods and a model to train, or checkpoints to evaluate, not both")
        if not self.checkpoints and not (self.methods and self.model):
            raise ValueError("a suite needs methods and a model, or checkpoints")
        if len(set(names)) < len(names):
            raise ValueError("two checkpoints have one name")
        return self

    def protocol(self, data_hash: str) -> str:
        """Hash of all that evaluation depends on; rows of two protocols never share a file."""
        included = {"data", "threat", "selection", "evaluation", "is_quick"}
        parts = self.model_dump(mode="json", include=included, exclude_none=True)
        del parts["data"]["name"]  # the dataset counts by its content, which the hash identifies, not by its path
        return digest({**parts, "data_hash": data_hash, "metrics": METRICS_VERSION})

    def budget(self, data_hash: str, trials: int | None) -> str:
        """Hash of everything that rows must share to be ranked together, apart from the protocol.

        It covers the data with its held-out splits, the network, the recipe without the settings in TUNABLE, and the
        number of `trials` with their search space; `trials` None stands for no tuning.
        """
        tuning = self.tuning or Tuning()
        searched = (
            None if trials is None else tuning.model_dump(include={"lr", "epochs", "confirm"}) | {"trials": trials}
        )
        recipe = self.recipe.model_dump(mode="json", exclude=set(TUNABLE))
        data = self.data.model_dump(mode="json", exclude={"name", "test_per_class"}, exclude_none=True)
        parts = {"data": {**data, "hash": data_hash}, "model": self.model, "recipe": recipe, "tuning": searched}
        return digest(parts)

    def as_quick(self) -> Suite:
        """Return the smoke-test variant: a suite of its own, named `<suite>-quick`, whose rows are never ranked."""
        return self.override(
            {**self.quick, "name": f"{self.name}-quick", "is_quick": True, "quick": {}, "tuning": None}
        )

    def override(self, changes: Mapping[str, Any]) -> Suite:
        """Return the suite with `section.field` keys (or whole top-level fields) replaced; raises InvalidInput."""
        tree = self.model_dump()
        for key, value in changes.items():
            _set(tree, key, value)
        return validated(Suite, tree, f"suite {self.name}")


def suite_paths() -> dict[str, Path]:
    """Suites by name: those of the package, then those in `./suites` of the working directory.

    Raises InvalidInput where two files have one name: a folder's suite does not take the place of a built-in one.
    """
    found: dict[str, Path] = {}
    for folder in (HOME, Path("suites")):
        for path in sorted(folder.glob("*.yaml")):
            known = found.setdefault(path.stem, path)
            if known is not path and known.resolve() != path.resolve():
                raise InvalidInput(f"suite {path.stem!r} is there twice: in {known} and in {path}; rename the latter")
    return found


def is_built_in(name: str) -> bool:
    """Whether a name, or the path of a YAML file, denotes one of the package's own suites."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else suite_paths().get(name)
    return path is not None and path.resolve().parent == HOME.resolve()


def load_suite(name: str) -> Suite:
    """Open a suite by name or by the path of a YAML file; raises UnknownName, Missing, CorruptFile, InvalidInput."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise Missing(f"suite {name}: no such file")
    else:
        known = suite_paths()
        if name not in known:
            raise UnknownName("suite", name, known)
        path = known[name]
    suite = validated(Suite, {"name": path.stem, **read_mapping(path, f"suite {path}")}, f"suite {path}")
    _refuse_code(suite, path)
    return suite


def _refuse_code(suite: Suite, path: Path) -> None:
    """Raise InvalidInput if a suite names a function by `module:callable`: a file must not decide what is imported.

    The name of a model can do so, and a loss among an attack's arguments, `pgd-20:loss=module:callable`.
    """
    variants = [suite]
    with suppress(InvalidInput):  # a quick variant that cannot be built cannot be run
        variants.append(suite.as_quick())
    for text in dict.fromkeys(text for variant in variants for text in _places(variant)):
        raise InvalidInput(
            f"suite {path}: {text!r:.80} names code to import, which a suite cannot do: register the model or the loss "
            "in a file given by --plugin and write its name here, or give it on the command line, by --set"
        )


def _places(suite: Suite) -> Iterator[str]:
    """The models and attacks of a suite whose text could name code to import."""
    prerequisites = (getattr(suite, need) for need in PREREQUISITES)
    models = [
        suite.model,
        *(listed.model for listed in suite.checkpoints),
        *(spec.model for spec in prerequisites if spec is not None and spec.model),
    ]
    yield from filter(names_code, models)
    yield from filter(code_of_attack, (suite.selection.attack, *suite.evaluation.best, *suite.evaluation.last))


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set `section.field` in a nested mapping; raises UnknownName for an unknown key."""
    section, _, name = key.partition(".")
    if section not in tree:
        inside = [f"{outer}.{section}" for outer, inner in tree.items() if isinstance(inner, dict) and section in inner]
        if inside:
            meant = " or ".join(map(repr, sorted(inside)))
            raise InvalidInput(f"unknown suite setting {key!r}; did you mean {meant}?")
        raise UnknownName("suite setting", section, tree)
    if not name:
        tree[section] = value
        return
    inner = tree[section] if isinstance(tree[section], dict) else {}
    if name not in inner:
        raise UnknownName("suite setting", key, [f"{section}.{field}" for field in inner])
    if isinstance(inner[name], tuple) and not isinstance(value, list | tuple):  # `--set evaluation.best=clean,pgd-20`
        value = [parse_value(part) for part in split_calls(str(value))]
    tree[section] = {**inner, name: value}
