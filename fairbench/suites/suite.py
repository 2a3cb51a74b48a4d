"""What a benchmark fixes: a suite, and the YAML file that it is written in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.registry import code_of_attack, names_code
from fairbench.suites.spec import (
    DataConfig,
    Evaluation,
    Frozen,
    Name,
    Recipe,
    Selection,
    ThreatSection,
    digest,
    validated,
)

__all__ = [
    "PREREQUISITES",
    "SECTIONS",
    "PublishedModel",
    "Suite",
    "TeacherSpec",
    "Tuning",
    "is_built_in",
    "load_suite",
    "read_mapping",
    "suite_paths",
]

# The parts of a suite whose settings `--set SECTION.NAME=VALUE` may change, and the models that students may need.
SECTIONS = ("recipe", "threat", "data", "selection", "evaluation")
PREREQUISITES = ("teacher", "natural_teacher", "warm_start")

HOME = Path(__file__).parent
METRICS_VERSION = 1

# What tuning, or a method's own recipe, may set: rows that differ in nothing else of the recipe share a budget.
TUNABLE = ("lr", "momentum", "nesterov", "weight_decay", "schedule", "milestones", "gamma")

# A suite is written by hand. What is larger, or unfolds to more through YAML's aliases, is refused before it is built.
MAX_SUITE_BYTES = 1_000_000
MAX_SUITE_VALUES = 100_000


class TeacherSpec(Frozen):
    """A model that methods start from or learn from: a checkpoint (`file:...`), or a run of the suite's own.

    A run is trained once and shared by all that need it; `recipe` holds what differs from the suite's recipe. A
    checkpoint is evaluated once, for its row on the board.
    """

    checkpoint: str | None = None
    method: str = "trades"
    model: str | None = None
    seed: int = 0
    recipe: Mapping[str, Any] = Field(default_factory=dict)


class Tuning(Frozen):
    """How every method of a suite finds its settings: the same number of trials, learning rates, seeds and score.

    `lr` are tried in this order with the first of the `seeds`; the score is the mean over the last `epochs` epochs. Of
    the trials, `confirm` are kept for further seeds of the two best settings.
    """

    lr: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field((0.05, 0.1, 0.2, 0.4), min_length=1)
    trials: int = Field(8, ge=1)
    confirm: int = Field(2, ge=0)
    seeds: tuple[int, ...] = Field((1000, 1001, 1002), min_length=1)
    epochs: int = Field(10, ge=1)


class PublishedModel(Frozen):
    """A public checkpoint that a suite evaluates: how to find it, how to read it, and where it comes from.

    `files` are names it may have in the folder of models, `model` the architecture, `mean` and `std` the normalisation
    in front of it, `weights` the hash of its tensors (`fairbench.models.weights_hash`, the same in any file format) and
    `sha256` that of the published file at `source`. A model of RobustBench needs its `robustbench` name instead.
    """

    name: Name
    model: str = ""
    files: tuple[str, ...] = ()
    robustbench: str | None = None
    weights: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    source: str = ""
    sha256: str | None = None
    license: str = ""
    citation: str = ""

    @model_validator(mode="after")
    def _is_found_one_way(self) -> PublishedModel:
        if (self.robustbench is None) == (not self.files):
            raise ValueError(f"{self.name}: give files with model and weights, or the robustbench name")
        if self.files and not (self.model and self.weights):
            raise ValueError(f"{self.name}: files need the model and the hash of its weights")
        if any(Path(file).name != file for file in self.files):
            raise ValueError(f"{self.name}: files are names in the folder of models, not paths")
        return self


class Suite(Frozen):
    """Everything a benchmark fixes. Its protocol is the part that evaluation depends on.

    `tuned_on` names the suite whose tuned settings this one runs with, if not its own. `inherits` maps a method without
    trials of its own to the method whose tuned settings it takes: an ablation to what it takes apart. A suite of
    `checkpoints` evaluates published models and trains nothing.
    """

    name: Name
    version: int = Field(1, ge=1)
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
    seeds: tuple[int, ...] = (0,)
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
        del parts["data"]["name"]  # its content counts, which the hash stands for, not where it lies
        return digest({**parts, "data_hash": data_hash, "metrics": METRICS_VERSION})

    def budget(self, data_hash: str, trials: int | None) -> str:
        """Hash of what every row that is ranked with another must share, beside the protocol.

        It covers the data with its held-out splits, the network, the recipe but for TUNABLE, and the number of `trials`
        with the space they search, or that there were none (None).
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
    """Whether a name, or the path of a YAML file, means one of the package's own suites."""
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


def read_mapping(path: Path, where: str) -> dict[Any, Any]:
    """Read a YAML file of plain values; errors begin with `where`.

    Raises InvalidInput for one that is, or unfolds to, more than is allowed, and CorruptFile for one that is no YAML,
    no mapping, or gives a key twice.
    """
    if path.stat().st_size > MAX_SUITE_BYTES:
        raise InvalidInput(f"{where}: larger than the {MAX_SUITE_BYTES} bytes allowed")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # dates and numbers raise their own
        raise CorruptFile(f"{where}: {' '.join(str(error).split())[:300]}") from None
    if not _is_small(tree):
        raise InvalidInput(f"{where}: unfolds to more than the {MAX_SUITE_VALUES} values allowed")
    if not isinstance(tree, dict):
        raise CorruptFile(f"{where}: expected a mapping at the top level")
    return tree


def _refuse_code(suite: Suite, path: Path) -> None:
    """Raise InvalidInput where a suite names a function by `module:callable`: a file must not decide what is imported.

    A model is such a place as a whole, a loss as an argument of an attack, `pgd-20:loss=module:callable`.
    """
    variants = [suite]
    with suppress(InvalidInput):  # a quick variant that cannot be built cannot be run either
        variants.append(suite.as_quick())
    for text in dict.fromkeys(text for variant in variants for text in _places(variant)):
        raise InvalidInput(
            f"suite {path}: {text!r:.80} names code to import, which a suite cannot do: register the model or the loss "
            "in a file given by --plugin and write its name here, or give it on the command line, by --set"
        )


def _places(suite: Suite) -> Iterator[str]:
    """The models and attacks of a suite that would import what they name."""
    prerequisites = (getattr(suite, need) for need in PREREQUISITES)
    models = [
        suite.model,
        *(listed.model for listed in suite.checkpoints),
        *(spec.model for spec in prerequisites if spec is not None and spec.model),
    ]
    yield from filter(names_code, models)
    yield from filter(code_of_attack, (suite.selection.attack, *suite.evaluation.best, *suite.evaluation.last))


class _Loader(yaml.SafeLoader):
    """Builds plain values only, refuses a key that is given twice, and stops at merges (`<<`) that multiply."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping as it is written, before merges give it keys of their own."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            written = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if written is not None and written in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(written)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_SUITE_VALUES:
            raise yaml.YAMLError(f"merges make more than the {MAX_SUITE_VALUES} values allowed")


def _is_small(tree: Any) -> bool:
    """Whether a tree has few values, those that stand in several places counted at each."""
    waiting, found = [tree], 0
    while waiting:
        node = waiting.pop()
        inner = (
            [*node, *node.values()] if isinstance(node, dict) else node if isinstance(node, list | tuple | set) else ()
        )
        found += 1 + len(inner)
        if found > MAX_SUITE_VALUES:
            return False
        waiting.extend(inner)
    return True


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set `section.field` in a nested mapping; raises UnknownName for a key that is not there."""
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
    tree[section] = {**inner, name: value}
