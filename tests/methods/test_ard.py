from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from fairbench.config import DataConfig, Environment, Evaluation, Recipe, RunSpec, Selection, Threat
from fairbench.conformance import check
from fairbench.data import Dataset, Split
from fairbench.method import AttackOutput, Batch, Context, Method
from fairbench.methods.ard import ard_term
from fairbench.models import build_model
from fairbench.plan import build_method, resolve_method
from fairbench.results import RunFolder
from fairbench.train import train


class Says(nn.Module):
    """Says the same of every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


TEACHER, NATURAL = Says(3.0, -1.0, 0.5), None


def set_up(name: str, model: nn.Module, *, epoch: int = 0, seed: int = 0, **settings: Any) -> Method:
    """Set up a method in epoch `epoch` of 10 with teachers that say the same of every image, whatever is asked."""
    method = build_method(resolve_method(name, {f"{name}.{key}": value for key, value in settings.items()}))
    method.setup(
        Context(
            model=model,
            num_classes=3,
            class_counts=torch.tensor([2, 2, 2]),
            device=torch.device("cpu"),
            threat=Threat(eps=0.1),
            recipe=Recipe(attack_steps=2, attack_rel_step=0.5),
            seed=seed,
            epochs=10,
            train_size=6,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            teacher=TEACHER,
            natural_teacher=NATURAL,
            epoch=epoch,
        )
    )
    return method


def trained(folder: Path, name: str, **settings: Any) -> tuple[Tensor, list[dict[str, str]]]:
    """Train two epochs on three generated classes: the last weights as one vector, and the rows of the history."""
    rng, labels = np.random.default_rng(0), np.arange(36) % 3
    images = rng.integers(0, 130, (36, 8, 8, 1)) + 55 * labels[:, None, None, None]
    split = Split(images.astype(np.uint8), labels)
    spec = RunSpec(
        suite="tiny",
        version=1,
        method=resolve_method(name, {f"{name}.{key}": value for key, value in settings.items()}),
        data=DataConfig(name="generated", validation_per_class=2),
        data_hash="",
        model="small-cnn:width=4,batchnorm=true",
        recipe=Recipe(epochs=2, batch_size=10, crop_padding=1, attack_steps=3),
        threat=Threat(eps=0.1),
        selection=Selection(rule="last"),
        evaluation=Evaluation(),
        seed=0,
        environment=Environment(torch=torch.__version__),
        protocol="",
    )
    teachers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        teachers.append(build_model(spec.model, num_classes=3, shape=(1, 8, 8)).eval().requires_grad_(False))
    run = RunFolder(folder / "-".join([name, *settings]))
    run.path.mkdir(parents=True)
    data = Dataset("generated", split, split, ("a", "b", "c"))
    train(spec, run, data, teacher=teachers[0], natural_teacher=teachers[1])
    weights = torch.cat([value.double().flatten() for value in load_file(run.last).values()])
    assert torch.isfinite(weights).all()
    with run.history.open(newline="") as handle:
        return weights, list(csv.DictReader(handle))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3))


BATCH = Batch(torch.linspace(0, 1, 24).view(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6))


def test_it_keeps_the_contract():
    assert [str(finding) for finding in check("ard") if not finding.passed] == []


def test_term_by_hand():
    soft, student = torch.tensor([[0.5, 0.5]]), torch.tensor([[30 * math.log(3), 0.0]])
    assert ard_term(student, soft, 30.0).item() == pytest.approx(900 * 0.5 * math.log(4 / 3), rel=1e-4)


def test_loss_agrees_with_float64():
    method = set_up("ard", network())
    model = method.context.model.eval()
    attacked = method.attack(model, BATCH)
    output = method.loss(model, BATCH, attacked)
    student = log_softmax(model(attacked.x_adv).detach().double().numpy() / 30, axis=1)
    teacher = np.array([3.0, -1.0, 0.5]) / 30
    kl = (softmax(teacher) * (log_softmax(teacher) - student)).sum(axis=1)
    assert output.loss.item() == pytest.approx(0.1 * 900 * kl.mean(), rel=1e-3)


def test_what_the_teacher_leaves_goes_to_clean_cross_entropy():
    method = set_up("ard", network(), teacher_share=0.0)
    model = method.context.model.eval()
    output = method.loss(model, BATCH, AttackOutput(BATCH.x))
    log_p = log_softmax(model(BATCH.x).detach().double().numpy(), axis=1)
    assert output.loss.item() == pytest.approx(-log_p[np.arange(6), BATCH.y.numpy()].mean(), rel=1e-5)


def test_the_attack_runs_in_train_mode_and_the_clean_forward_counts_for_batchnorm():
    method = set_up("ard", network())
    model = method.context.model.train()
    attacked = method.attack(model, BATCH)
    assert model[1].num_batches_tracked == 2  # attack steps
    method.loss(model, BATCH, attacked)
    assert model[1].num_batches_tracked == 4


def test_the_temperature_and_the_teacher_act_on_training(tmp_path):
    weights, _ = trained(tmp_path, "ard")
    assert not torch.equal(weights, trained(tmp_path, "ard", temperature=1.0)[0])
    assert not torch.equal(weights, trained(tmp_path, "ard", teacher_share=0.5)[0])
    assert not torch.equal(weights, trained(tmp_path, "sat")[0])
