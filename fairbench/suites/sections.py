"""The parts that describe a run: data, threat model, recipe, selection, evaluation, method and environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fairbench.errors import UnknownName
from fairbench.suites.values import Frozen, Real, Seed, Share, validated

__all__ = [
    "ATTACKS",
    "BATCH_SIZE",
    "DataConfig",
    "Environment",
    "Evaluation",
    "MethodSpec",
    "Precision",
    "Published",
    "Recipe",
    "Selection",
    "ThreatSection",
    "Trial",
    "TuningMark",
]

# The attacks of an evaluation that names none. Boards and `fairbench evaluate` add AutoAttack, which costs hundreds of
# times as much as all of them together.
ATTACKS = ("clean", "fgsm", "pgd-20", "pgd-20:rel_step=0.25", "cw-30")
BATCH_SIZE = 250

Precision = Literal["float32", "bf16", "float64"]
TuningMark = Literal["tuned", "untuned", "inherited"]


class DataConfig(Frozen):
    """A dataset and how its training split is divided; counts are images per class.

    `train_per_class` keeps the first images of every class of the training split, `test_per_class` those of the test
    split; None keeps all. With `hold_out_alike` both held-out splits are kept out of every method's training images,
    those of methods without a method split included, so that all methods train on the same images.
    """

    name: str
    validation_per_class: int = Field(20, ge=1)
    method_per_class: int = Field(0, ge=0)
    split_seed: Seed = 0
    test_per_class: int | None = Field(None, ge=1)
    train_per_class: int | None = Field(None, ge=1)
    hold_out_alike: Literal[True] | None = None

    @property
    def label(self) -> str:
        """The dataset's name without the folders of the files it may consist of."""
        prefix, colon, rest = self.name.partition(":")
        return prefix + colon + ",".join(Path(part).name for part in rest.split(","))


class ThreatSection(Frozen):
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
    """The rule that selects `best`: the epoch's mean of average and worst-class robustness on the split named by
    `rule`.
    """

    rule: Literal["validation", "test", "last"] = "validation"
    attack: str = "pgd-10:rel_step=0.25"
    every: int = Field(1, ge=1)


class Evaluation(Frozen):
    """The attacks on each checkpoint, in protocol order, the fixed batch size they run at, and the board's schema.

    `metrics: 2` gives boards of schema 3, whose `worst_lo` is corrected for one class alone; without it they keep
    schema 2. It is part of the protocol, so that an existing suite needs a new version for it.
    """

    best: tuple[str, ...] = Field((*ATTACKS, "autoattack"), min_length=1)
    last: tuple[str, ...] = ATTACKS
    batch_size: int = Field(BATCH_SIZE, ge=1, le=2**31 - 1)
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
    """How the weights of a published model are read: number of classes, image shape [C,H,W] and normalisation."""

    num_classes: int = Field(ge=1)
    shape: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Environment(Frozen):
    """The parts of machine and software that determine the bits of a result: torch, type of device, threads, engine.

    The engine computes the copies of networks that attacks are made with, in training and evaluation: `c`, or `torch`
    if the device is not a CPU or no C compiler is installed. None stands for runs from before it was recorded: their
    evaluations attack the model itself.
    """

    torch: str
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(1, ge=1)
    engine: Literal["torch", "c"] | None = None


class Trial(Frozen):
    """Marks a run as a trial of the tuning: it is scored on held-out images and never reads the test set.

    `attack` is run on the held-out images after each of the last `epochs` epochs.
    """

    attack: str
    epochs: int = Field(ge=1)
