"""A method in miniature: set up without a run, or trained for two epochs on generated images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fairbench.data import Dataset, Split
from fairbench.method.composition import build_method, resolve_method
from fairbench.method.context import Context
from fairbench.method.method import Method
from fairbench.models import build_model
from fairbench.results.folder import RunFolder
from fairbench.suites.sections import DataConfig, Environment, Evaluation, MethodSpec, Recipe, Selection, ThreatSection
from fairbench.suites.spec import RunSpec
from fairbench.train.loop import train

M = TypeVar("M", bound=Method)

NETWORK = "small-cnn:width=4,batchnorm=true"


class Says(nn.Module):
    """Says the same of every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def set_up(
    name: str,
    model: nn.Module,
    *,
    teacher: nn.Module | None = None,
    natural_teacher: nn.Module | None = None,
    epoch: int = 0,
    seed: int = 0,
    **settings: Any,
) -> Method:
    """Set up a method in epoch `epoch` of 10 with the teachers given."""
    own = {f"{name}.{key}": value for key, value in settings.items()}
    method = build_method(resolve_method(name, own, num_classes=3))
    given = {"teacher": teacher, "natural_teacher": natural_teacher, "epoch": epoch, "seed": seed}
    return attach(method, model, recipe=Recipe(attack_steps=2, attack_rel_step=0.5), **given)


def context(model: nn.Module, **settings: Any) -> Context:
    """Return the context of a network of three classes with six training images; `settings` are fields of Context."""
    defaults = {
        "num_classes": 3,
        "class_counts": torch.tensor([2, 2, 2]),
        "device": torch.device("cpu"),
        "threat": ThreatSection(eps=0.1),
        "recipe": Recipe(attack_steps=10, attack_rel_step=0.25),
        "seed": 0,
        "epochs": 10,
        "train_size": 6,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    return Context(model=model, **{**defaults, **settings})


def attach(method: M, model: nn.Module, **settings: Any) -> M:
    """Set a method up in the context of `model`."""
    method.setup(context(model, **settings))
    return method


def miniature_spec(method: MethodSpec, *, method_per_class: int = 0, **recipe: Any) -> RunSpec:
    """A run of two epochs on generated images of three classes; `recipe` replaces settings of its recipe."""
    defaults = {"epochs": 2, "batch_size": 10, "crop_padding": 1, "attack_steps": 3}
    return RunSpec(
        suite="tiny",
        version=1,
        method=method,
        data=DataConfig(name="generated", validation_per_class=2, method_per_class=method_per_class),
        data_hash="",
        model=NETWORK,
        recipe=Recipe(**{**defaults, **recipe}),
        threat=ThreatSection(eps=0.1),
        selection=Selection(rule="last"),
        evaluation=Evaluation(),
        seed=0,
        environment=Environment(torch=torch.__version__),
        protocol="",
    )


def untrained_network(seed: int) -> nn.Module:
    """A network of a miniature run, frozen, that stands for a teacher or a warm start."""
    torch.manual_seed(seed)
    return build_model(NETWORK, num_classes=3, shape=(1, 8, 8)).eval().requires_grad_(False)


def trained(folder: Path, name: str, **settings: Any) -> tuple[Tensor, list[dict[str, str]]]:
    """Train two epochs on three generated classes: the last weights as one vector, and the rows of the history."""
    rng, labels = np.random.default_rng(0), np.arange(36) % 3
    images = rng.integers(0, 130, (36, 8, 8, 1)) + 55 * labels[:, None, None, None]
    split = Split(images.astype(np.uint8), labels)
    spec = miniature_spec(resolve_method(name, {f"{name}.{key}": value for key, value in settings.items()}))
    teachers = [untrained_network(seed) for seed in (1, 2)]
    run = RunFolder(folder / "-".join([name, *settings]))
    run.path.mkdir(parents=True)
    data = Dataset("generated", split, split, ("a", "b", "c"))
    train(spec, run, data, teacher=teachers[0], natural_teacher=teachers[1])
    weights = torch.cat([value.double().flatten() for value in load_file(run.last).values()])
    assert torch.isfinite(weights).all()
    with run.history.open(newline="") as handle:
        return weights, list(csv.DictReader(handle))
