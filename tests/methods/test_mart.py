from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import softmax
from torch import Tensor

from fairbench.config import DataConfig, Environment, Evaluation, Recipe, RunSpec, Selection, Threat
from fairbench.conformance import check
from fairbench.data import Dataset, Split
from fairbench.methods.mart import mart_terms
from fairbench.models import build_model
from fairbench.plan import resolve_method
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
    assert [str(finding) for finding in check("mart") if not finding.passed] == []


def test_terms_by_hand():
    clean, adv = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)  # (3/4, 1/4) and (1/2, 1/2)
    boosted, doubted = mart_terms(clean, adv, torch.tensor([0]))
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert boosted.item() == pytest.approx(math.log(2) - math.log(0.5001), rel=1e-5)
    assert doubted.item() == pytest.approx(0.25 * kl, rel=1e-5)


def test_terms_agree_with_float64():
    rng = np.random.default_rng(0)
    (clean, adv), y = rng.normal(0, 3, (2, 32, 10)), rng.integers(0, 10, 32)
    natural, p, rows = softmax(clean, axis=1), softmax(adv, axis=1), np.arange(32)
    wrong = np.where(np.eye(10, dtype=bool)[y], 0, p).max(axis=1)
    boosted = -np.log(p[rows, y]) - np.log(1.0001 - wrong + 1e-12)
    doubted = (1.0000001 - natural[rows, y]) * (natural * (np.log(natural) - np.log(p))).sum(axis=1)
    ours = mart_terms(*(torch.from_numpy(array) for array in (clean, adv, y)))
    np.testing.assert_allclose(ours[0].numpy(), boosted, rtol=1e-4)
    np.testing.assert_allclose(ours[1].numpy(), doubted, rtol=1e-4, atol=1e-6)


def test_gradient_flows_through_both_predictions_and_stays_finite_where_they_are_certain():
    clean = torch.tensor([[1.0, 0.0, 0.0], [0.0, 30.0, 0.0]], requires_grad=True)
    adv = torch.tensor([[0.0, 1.0, 0.0], [60.0, 0.0, 0.0]], requires_grad=True)
    boosted, doubted = mart_terms(clean, adv, torch.tensor([0, 1]))
    assert boosted[1].item() == pytest.approx(60 - math.log(1e-4), rel=1e-3)
    (boosted + doubted).sum().backward()
    for logits in (clean, adv):
        assert torch.isfinite(logits.grad).all()
        assert logits.grad[0].abs().min() > 0


def test_the_regulariser_acts_and_training_is_not_that_of_sat(tmp_path):
    weights, _ = trained(tmp_path, "mart")
    assert not torch.equal(weights, trained(tmp_path, "mart", beta=0.0)[0])
    assert not torch.equal(weights, trained(tmp_path, "sat")[0])
