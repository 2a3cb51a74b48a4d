"""What a run is: validated, frozen, hashable descriptions of its parts that determine every result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

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

from fairbench.errors import InvalidInput, UnknownName, explain_validation

__all__ = [
    "ATTACKS",
    "BATCH_SIZE",
    "DataConfig",
    "Environment",
    "Evaluation",
    "Frozen",
    "MethodSpec",
    "Name",
    "Precision",
    "Published",
    "Recipe",
    "RunSpec",
    "Selection",
    "Threat",
    "Trial",
    "TuningMark",
    "digest",
    "validated",
]

RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}

# The attacks of an evaluation where none are named. Boards and `fairbench evaluate` add AutoAttack, which costs
# hundreds of times as much as all of them.
ATTACKS = ("clean", "fgsm", "pgd-20", "pgd-20:rel_step=0.25", "cw-30")
BATCH_SIZE = 250

Precision = Literal["float32", "bf16", "float64"]
TuningMark = Literal["tuned", "untuned", "inherited"]
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


class Frozen(BaseModel):
    """A description that cannot change, and takes no setting that it does not declare."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float):
            raise ValueError("expected a number")
        return value


class DataConfig(Frozen):
    """A dataset and how its training split is divided; counts are images per class.

    `train_per_class` keeps the first images of every class of the training split, `test_per_class` those of the test
    split; None keeps all. With `hold_out_alike` both held-out splits are kept out of every method's training images,
    those of methods without a method split included, so that all methods train on the same images.
    """

    name: str
    validation_per_class: int = Field(20, ge=1)
    method_per_class: int = Field(0, ge=0)
    split_seed: int = 0
    test_per_class: int | None = Field(None, ge=1)
    train_per_class: int | None = Field(None, ge=1)
    hold_out_alike: Literal[True] | None = None

    @property
    def label(self) -> str:
        """The name without the folders of the files it may consist of."""
        prefix, colon, rest = self.name.partition(":")
        return prefix + colon + ",".join(Path(part).name for part in rest.split(","))


class Threat(Frozen):
    """The threat model: a norm and a budget in pixel units of [0,1]."""

    norm: Literal["Linf", "L2"] = "Linf"
    eps: Annotated[Real, Field(gt=0)] = 8 / 255


class Recipe(Frozen):
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
    precision: Precision = "float32"

    def override(self, changes: Mapping[str, Any], where: str) -> Recipe:
        """Return the recipe with fields replaced; raises UnknownName and InvalidInput, which name `where`."""
        for name in changes:
            if name not in Recipe.model_fields:
                raise UnknownName(f"recipe setting of {where}", name, Recipe.model_fields)
        return validated(Recipe, {**self.model_dump(), **changes}, f"recipe of {where}")


class Selection(Frozen):
    """Which epoch's weights are `best`: by mean of average and worst-class robustness on the split named by `rule`."""

    rule: Literal["validation", "test", "last"] = "validation"
    attack: str = "pgd-10:rel_step=0.25"
    every: int = Field(1, ge=1)


class Evaluation(Frozen):
    """The attacks on each checkpoint, in protocol order, the fixed batch size they run at, and the board's schema.

    `metrics: 2` gives boards of schema 3, whose `worst_lo` is corrected for one class alone; without it they keep
    schema 2. It is part of the protocol, so that an existing suite needs a new version for it.
    """

    best: tuple[str, ...] = (*ATTACKS, "autoattack")
    last: tuple[str, ...] = ATTACKS
    batch_size: int = Field(BATCH_SIZE, ge=1)
    seed: int = 0
    metrics: Literal[2] | None = None


class MethodSpec(Frozen):
    """A method resolved to its parts: a base objective, class policies, and all hyper-parameters of each."""

    name: str
    base: str
    policies: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    provenance: str = ""
    source_hash: str = ""


class Published(Frozen):
    """How the weights of a published model are read: for how many classes and which images [C,H,W], normalised how."""

    num_classes: int = Field(ge=1)
    shape: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Environment(Frozen):
    """What of the machine and its software determines bits: torch, kind of device, threads, engine.

    The engine computes the copies of networks that attacks are made with, in training and evaluation: `c`, or `torch`
    where the device is no CPU or no C compiler is there. None stands for runs from before it was recorded: their
    evaluations craft with the model itself.
    """

    torch: str
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(1, ge=1)
    engine: Literal["torch", "c"] | None = None


class Trial(Frozen):
    """What makes a run a trial of the tuning: how it is scored on held-out images, and that it never sees the test set.

    `attack` is run on them after each of the last `epochs` epochs.
    """

    attack: str
    epochs: int = Field(ge=1)


class RunSpec(Frozen):
    """One training run and its evaluation; `run_id` hashes what determines the result, not which attacks are asked.

    Where `checkpoint` names a file (`file:PATH#DIGEST`), its weights are evaluated as they are, and nothing is trained.
    A run `until` "trained" stops before its evaluation. `budget` and `tuning` say which rows it is ranked with.
    """

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
    checkpoint: str | None = None
    published: Published | None = None
    trial: Trial | None = None
    until: Literal["trained"] | None = None
    budget: str | None = None
    tuning: TuningMark | None = None
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
        for name in ("teacher", "natural_teacher", "warm_start", "checkpoint"):
            given = getattr(self, name)
            if given is not None:
                parts[name] = given.run_id if isinstance(given, RunSpec) else given.rpartition("#")[2]
        return digest(parts)

    @property
    def frozen_id(self) -> str:
        """Hash of the settings alone, without the suite's name, the torch version, the device and the threads.

        Settings chosen by tuning on one machine stay those of another by it.
        """
        given = {
            need: found.frozen_id
            for need in ("teacher", "natural_teacher", "warm_start")
            if isinstance(found := getattr(self, need), RunSpec)
        }
        apart: dict[str, Any] = {"suite": "any", "environment": Environment(torch=""), **dict.fromkeys(given)}
        return digest({"run": self.model_copy(update=apart).run_id, **given})

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
        """Hash of the training settings; what runs must share to be ranked together is `Suite.budget`."""
        if self.published is not None:  # nothing of these trainings is known here: they are ranked together
            return digest({"recipe": "published weights"})
        return digest({"recipe": self.recipe.model_dump(mode="json"), "model": self.model})

    @property
    def folder(self) -> Path:
        """Where the run lives below a results folder."""
        return Path(self.suite) / self.label / self.run_id


_NOT_IDENTITY = {
    "until",
    "budget",
    "tuning",
    "version",
    "evaluation",
    "protocol",
    "plugins",
    "command",
    "teacher",
    "natural_teacher",
    "warm_start",
    "checkpoint",
    "quick",
    "custom",
    "role",
}


def digest(value: Any) -> str:
    """First twelve hex digits of the sha256 of a value's canonical JSON."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def validated(kind: type[Validated], tree: Mapping[str, Any], where: str) -> Validated:
    """Validate a tree of plain values; raises InvalidInput with `where` it is from, the setting and the nearest."""
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
