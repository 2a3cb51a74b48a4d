"""What a suite and a run are: validated, frozen, hashable descriptions that determine every result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.hyper import explain_validation

__all__ = [
    "DataConfig",
    "Environment",
    "Evaluation",
    "MethodSpec",
    "Recipe",
    "RunSpec",
    "Selection",
    "Suite",
    "TeacherSpec",
    "Threat",
    "digest",
    "load_suite",
    "suite_paths",
]

METRICS_VERSION = 1

# A suite is written by hand. What is larger, or unfolds to more through YAML's aliases, is refused before it is built.
MAX_SUITE_BYTES = 1_000_000
MAX_SUITE_VALUES = 100_000
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}

Validated = TypeVar("Validated", bound=BaseModel)


def _fraction(value: Any) -> Any:
    """Accept `8/255` where a number is expected."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ArithmeticError):
            return value
    return value


def _not_reserved(name: str) -> str:
    """Refuse names that are devices on some systems, whatever follows the first dot."""
    if name.partition(".")[0].lower() in RESERVED:
        raise ValueError("a name that some systems keep for a device")
    return name


Real = Annotated[float, BeforeValidator(_fraction), Field(allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_fraction), Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+.\-]*$", max_length=100), AfterValidator(_not_reserved)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float):
            raise ValueError("expected a number")
        return value


class DataConfig(_Frozen):
    """A data set and how its training split is divided; counts are images per class."""

    name: str
    validation_per_class: int = Field(20, ge=1)
    method_per_class: int = Field(0, ge=0)
    split_seed: int = 0
    test_per_class: int | None = Field(None, ge=1)

    @property
    def label(self) -> str:
        """The name without the folders of the files it may consist of."""
        prefix, colon, rest = self.name.partition(":")
        return prefix + colon + ",".join(Path(part).name for part in rest.split(","))


class Threat(_Frozen):
    """The threat model: a norm and a budget in pixel units of [0,1]."""

    norm: Literal["Linf", "L2"] = "Linf"
    eps: Annotated[Real, Field(gt=0)] = 8 / 255


class Recipe(_Frozen):
    """How a network is trained; milestones are shares of the epochs, the attack's step is in units of epsilon."""

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(128, ge=1)
    lr: Annotated[Real, Field(gt=0)] = 0.1
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[Real, Field(ge=0)] = 5e-4
    schedule: Literal["multistep", "onecycle", "constant"] = "multistep"
    milestones: tuple[Share, ...] = (0.5, 0.75)
    gamma: Annotated[Real, Field(gt=0, le=1)] = 0.1
    crop_padding: int = Field(4, ge=0)
    flip: bool = True
    pad_mode: Literal["constant", "reflect"] = "constant"
    attack_steps: int = Field(10, ge=1)
    attack_rel_step: Annotated[Real, Field(gt=0)] = 0.25
    precision: Literal["float32", "bf16"] = "float32"

    def override(self, changes: Mapping[str, Any], where: str) -> Recipe:
        """Return the recipe with fields replaced; raises UnknownName and InvalidInput, which name `where`."""
        for name in changes:
            if name not in Recipe.model_fields:
                raise UnknownName(f"recipe setting of {where}", name, Recipe.model_fields)
        return _validated(Recipe, {**self.model_dump(), **changes}, f"recipe of {where}")


class Selection(_Frozen):
    """Which epoch's weights are `best`: by mean of average and worst-class robustness on the split named by `rule`."""

    rule: Literal["validation", "test", "last"] = "validation"
    attack: str = "pgd-10:rel_step=0.25"
    every: int = Field(1, ge=1)


class Evaluation(_Frozen):
    """The attacks on each checkpoint, in protocol order, and the fixed batch size they run at."""

    best: tuple[str, ...] = ("clean", "fgsm", "pgd-20", "pgd-20:rel_step=0.25", "cw-30", "autoattack")
    last: tuple[str, ...] = ("clean", "fgsm", "pgd-20", "pgd-20:rel_step=0.25", "cw-30")
    batch_size: int = Field(250, ge=1)
    seed: int = 0


class TeacherSpec(_Frozen):
    """A model that methods start from or learn from: a checkpoint (`file:...`), or a run of the suite's own.

    A run is trained once and shared by all that need it; `recipe` holds what differs from the suite's recipe.
    """

    checkpoint: str | None = None
    method: str = "trades"
    model: str | None = None
    seed: int = 0
    recipe: Mapping[str, Any] = Field(default_factory=dict)


class Suite(_Frozen):
    """Everything a benchmark fixes. Its protocol is the part that evaluation depends on."""

    name: Name
    version: int = Field(1, ge=1)
    summary: str = ""
    data: DataConfig
    model: str
    teacher: TeacherSpec | None = None
    natural_teacher: TeacherSpec | None = None
    warm_start: TeacherSpec | None = None
    recipe: Recipe = Recipe()
    threat: Threat = Threat()
    selection: Selection = Selection()
    evaluation: Evaluation = Evaluation()
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    quick: Mapping[str, Any] = Field(default_factory=dict)
    is_quick: bool = False

    def protocol(self, data_hash: str) -> str:
        """Hash of all that evaluation depends on; rows of two protocols never share a file."""
        included = {"data", "threat", "selection", "evaluation", "is_quick"}
        parts = self.model_dump(mode="json", include=included, exclude_none=True)
        del parts["data"]["name"]  # its content counts, which the hash stands for, not where it lies
        return digest({**parts, "data_hash": data_hash, "metrics": METRICS_VERSION})

    def as_quick(self) -> Suite:
        """Return the smoke-test variant: a suite of its own, named `<suite>-quick`, whose rows are never ranked."""
        return self.override({**self.quick, "name": f"{self.name}-quick", "is_quick": True, "quick": {}})

    def override(self, changes: Mapping[str, Any]) -> Suite:
        """Return the suite with `section.field` keys (or whole top-level fields) replaced; raises InvalidInput."""
        tree = self.model_dump()
        for key, value in changes.items():
            _set(tree, key, value)
        return _validated(Suite, tree, f"suite {self.name}")


class MethodSpec(_Frozen):
    """A method resolved to its parts: a base objective, class policies, and all hyper-parameters of each."""

    name: str
    base: str
    policies: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    provenance: str = ""
    source_hash: str = ""


class Environment(_Frozen):
    """What of the machine and its software determines bits: torch, kind of device, threads."""

    torch: str
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(1, ge=1)


class RunSpec(_Frozen):
    """One training run and its evaluation; `run_id` hashes what determines the result, not which attacks are asked."""

    suite: Name
    version: int
    method: MethodSpec
    role: Literal["student", "teacher", "natural-teacher", "warm-start"] = "student"
    data: DataConfig
    data_hash: str
    model: str
    recipe: Recipe
    threat: Threat
    selection: Selection
    evaluation: Evaluation
    seed: int
    teacher: RunSpec | str | None = None
    natural_teacher: RunSpec | str | None = None
    warm_start: RunSpec | str | None = None
    environment: Environment
    protocol: str
    quick: bool = False
    custom: bool = False
    plugins: tuple[str, ...] = ()
    command: str = ""

    @property
    def run_id(self) -> str:
        """Twelve hex digits; equal ids mean equal results on one kind of machine.

        Settings that are None are left out, so that a setting added later, None by default, keeps old ids. Of a
        checkpoint the content counts, not where it lies.
        """
        parts = self.model_dump(mode="json", exclude=_NOT_IDENTITY, exclude_none=True)
        del parts["data"]["name"]
        parts["evaluation"] = {"batch_size": self.evaluation.batch_size, "seed": self.evaluation.seed}
        for name in ("teacher", "natural_teacher", "warm_start"):
            given = getattr(self, name)
            if given is not None:
                parts[name] = given.run_id if isinstance(given, RunSpec) else given.rpartition("#")[2]
        return digest(parts)

    @property
    def prerequisites(self) -> list[RunSpec | str]:
        """The runs and checkpoints that this run needs: its teachers and its warm start."""
        return [given for given in (self.teacher, self.natural_teacher, self.warm_start) if given is not None]

    @property
    def label(self) -> str:
        """Name of the run's row: its method's, or the role it plays for others."""
        return self.method.name if self.role == "student" else self.role

    @property
    def recipe_hash(self) -> str:
        """Hash of the training budget: rows ranked together share it."""
        return digest({"recipe": self.recipe.model_dump(mode="json"), "model": self.model})

    @property
    def folder(self) -> Path:
        """Where the run lives below a results folder."""
        return Path(self.suite) / self.label / self.run_id


_NOT_IDENTITY = {
    "version",
    "evaluation",
    "protocol",
    "plugins",
    "command",
    "teacher",
    "natural_teacher",
    "warm_start",
    "quick",
    "custom",
    "role",
}


def digest(value: Any) -> str:
    """First twelve hex digits of the sha256 of a value's canonical JSON."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def suite_paths() -> dict[str, Path]:
    """Suites by name: those of the package, then those in `./suites` of the working directory."""
    folders = [Path(__file__).parent / "suites", Path("suites")]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def load_suite(name: str) -> Suite:
    """Open a suite by name or by the path of a YAML file; raises UnknownName, Missing, CorruptFile, InvalidInput."""
    known = suite_paths()
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise Missing(f"suite {name}: no such file")
    elif name in known:
        path = known[name]
    else:
        raise UnknownName("suite", name, known)
    if path.stat().st_size > MAX_SUITE_BYTES:
        raise InvalidInput(f"suite {path}: larger than the {MAX_SUITE_BYTES} bytes allowed")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # dates and numbers raise their own
        raise CorruptFile(f"suite {path}: {' '.join(str(error).split())[:300]}") from None
    if not _is_small(tree):
        raise InvalidInput(f"suite {path}: unfolds to more than the {MAX_SUITE_VALUES} values allowed")
    if not isinstance(tree, dict):
        raise CorruptFile(f"suite {path}: expected a mapping at the top level")
    return _validated(Suite, {"name": path.stem, **tree}, f"suite {path}")


class _Loader(yaml.SafeLoader):
    """Builds plain values only, and stops at merges (`<<`) that multiply."""

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


def _validated(kind: type[Validated], tree: Mapping[str, Any], where: str) -> Validated:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            *sections, name = map(str, first["loc"])
            unknown = UnknownName("setting", ".".join([*sections, name]), _known(kind, sections))
            raise InvalidInput(f"{where}: {unknown}") from None
        raise InvalidInput(f"{where}: {explain_validation(error)}") from None


def _known(kind: type[BaseModel], sections: Sequence[str]) -> list[str]:
    """The settings of a section, each with its path."""
    for section in sections:
        annotation = kind.model_fields[section].annotation
        parts = [part for part in (annotation, *get_args(annotation)) if isinstance(part, type)]
        kind = next(part for part in parts if issubclass(part, BaseModel))
    return [".".join([*sections, field]) for field in kind.model_fields]


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set `section.field` in a nested mapping; raises UnknownName for a key that is not there."""
    section, _, name = key.partition(".")
    if section not in tree:
        raise UnknownName("suite setting", section, tree)
    if not name:
        tree[section] = value
        return
    inner = tree[section] if isinstance(tree[section], dict) else {}
    if name not in inner:
        raise UnknownName("suite setting", key, [f"{section}.{field}" for field in inner])
    tree[section] = {**inner, name: value}
