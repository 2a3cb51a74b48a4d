from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import log_softmax
from torch import Tensor, nn

from fairbench.config import DataConfig, Environment, Evaluation, Recipe, RunSpec, Selection, Threat
from fairbench.conformance import check
from fairbench.data import Dataset, Split
from fairbench.method import Batch, Context
from fairbench.models import build_model
from fairbench.plan import build_method, resolve_method
from fairbench.results import RunFolder
from fairbench.train import train


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


def test_it_keeps_the_contract():
    assert [str(finding) for finding in check("natural") if not finding.passed] == []


def test_nothing_is_attacked_and_the_loss_is_the_clean_cross_entropy():
    method = build_method(resolve_method("natural"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    batch = Batch(torch.rand(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6))
    method.context = Context(
        model=model,
        num_classes=3,
        class_counts=torch.tensor([2, 2, 2]),
        device=torch.device("cpu"),
        threat=Threat(),
        recipe=Recipe(),
        seed=0,
        epochs=1,
        train_size=6,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    )
    attacked = method.attack(model, batch)
    assert torch.equal(attacked.x_adv, batch.x)
    output = method.loss(model, batch, attacked)
    log_p = log_softmax(model(batch.x).detach().double().numpy(), axis=1)
    assert output.loss.item() == pytest.approx(-log_p[np.arange(6), batch.y.numpy()].mean(), rel=1e-5)
    assert output.logits_adv is None


def test_training_is_not_adversarial_training(tmp_path):
    weights, history = trained(tmp_path, "natural")
    assert not torch.equal(weights, trained(tmp_path, "sat")[0])
    assert float(history[1]["loss"]) < float(history[0]["loss"])
    assert "train_correct_adv" not in history[0]
