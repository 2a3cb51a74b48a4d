from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.special import log_softmax
from torch import Tensor, nn

from fairbench.config import DataConfig, Environment, Evaluation, Recipe, RunSpec, Selection, Threat
from fairbench.conformance import check
from fairbench.data import Dataset, Split
from fairbench.losses import soften
from fairbench.method import Batch, Context, Method
from fairbench.methods.label_smoothing import smooth_logits
from fairbench.models import build_model
from fairbench.plan import build_method, resolve_method
from fairbench.results import RunFolder
from fairbench.train import train

TEACHER = NATURAL = None
BATCH = Batch(torch.linspace(0, 1, 24).view(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6))


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


@pytest.mark.parametrize("name", ["label_smoothing", "class_label_smoothing"])
def test_it_keeps_the_contract(name):
    assert [str(finding) for finding in check(name) if not finding.passed] == []


def test_labels_by_hand():
    smooth = torch.softmax(smooth_logits(torch.tensor([2, 0]), 3, 0.2), dim=1)
    torch.testing.assert_close(smooth, torch.tensor([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]))


def test_a_temperature_smooths_or_sharpens_by_hand():
    # odds 8 : 1 : 1 become 64 : 1 : 1 at temperature 1/2 and 2 : 1 : 1 at 3
    y = torch.tensor([0, 1])
    smooth = soften(smooth_logits(y, 3, 0.2), y, torch.tensor([0.5, 3.0, 1.0]))
    torch.testing.assert_close(smooth, torch.tensor([[64, 1, 1], [1, 2, 1]]) / torch.tensor([[66.0], [4.0]]))


@given(st.integers(2, 100), st.floats(0.01, 0.99), st.floats(0.5, 5))
def test_the_label_always_leads(classes, smoothing, tau):
    y = torch.arange(classes)
    smooth = soften(smooth_logits(y, classes, smoothing), y, torch.full((classes,), tau))
    assert (smooth.diagonal() >= smooth.amax(dim=1) - 1e-7).all()
    torch.testing.assert_close(smooth.sum(dim=1), torch.ones(classes))


def test_loss_agrees_with_float64():
    torch.manual_seed(0)
    method = set_up("label_smoothing", nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    model = method.context.model
    attacked = method.attack(model, BATCH)
    target = 0.05 + 0.85 * np.eye(3)[BATCH.y.numpy()]
    kl = {}
    for name, x in (("adv", attacked.x_adv), ("clean", BATCH.x)):
        log_p = log_softmax(model(x).detach().double().numpy(), axis=1)
        kl[name] = (target * (np.log(target) - log_p)).sum(axis=1).mean()
    loss = method.loss(model, BATCH, attacked).loss.item()
    assert loss == pytest.approx(5 / 6 * kl["adv"] + 1 / 6 * kl["clean"], rel=1e-5)


def test_smoothing_and_its_adaptation_by_class_act_on_training(tmp_path):
    weights, history = trained(tmp_path, "class_label_smoothing")
    same, _ = trained(tmp_path, "label_smoothing")
    assert max(abs(float(history[0][f"temperature_adv[{c}]"]) - 1) for c in range(3)) == pytest.approx(0.1, abs=1e-6)
    assert not torch.equal(weights, same)
    assert torch.equal(trained(tmp_path, "class_label_smoothing", temperature_rate=0.0)[0], same)
    assert not torch.equal(trained(tmp_path, "label_smoothing", smoothing=0.3)[0], same)
