from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.special import log_softmax
from torch import Tensor, nn

from fairbench.config import DataConfig, Environment, Evaluation, Recipe, RunSpec, Selection, Threat
from fairbench.conformance import check
from fairbench.data import Dataset, Split
from fairbench.method import AttackOutput, Batch, Context, Method, StepOutput
from fairbench.methods.fairat import cut_out, hard_threshold
from fairbench.models import build_model
from fairbench.plan import build_method, resolve_method
from fairbench.results import RunFolder
from fairbench.train import train

TEACHER = NATURAL = None
BATCH = Batch(0.2 + 0.1 * torch.rand(6, 1, 8, 8), torch.arange(6) % 3, torch.tensor([5, 4, 3, 2, 1, 0]))


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
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def test_it_keeps_the_contract():
    assert [str(finding) for finding in check("fairat") if not finding.passed] == []


def test_threshold_by_hand():
    # seen are 0, 1, 2, 3, 4, of which the quantile 0.75 is 3: the hardest quarter lies above it
    hardness = torch.tensor([3.0, -1.0, 1.0, 4.0, 0.0, 2.0, -1.0])
    assert hard_threshold(hardness, 0.25).item() == 3.0


def test_cut_out_by_hand():
    cut = cut_out(torch.ones(2, 1, 4, 4), torch.tensor([[0.5, 0.5], [0.0, 0.99]]), 0.5)
    assert cut[0, 0].tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    assert cut[1, 0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert torch.equal(cut_out(torch.ones(2, 3, 4, 6), torch.rand(2, 2), 0.0), torch.ones(2, 3, 4, 6))


def test_only_hard_samples_are_augmented_and_in_the_same_way_in_any_batch():
    method = set_up("fairat", network(), epoch=3)
    method.hardness, method.threshold = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor(2.0)
    changed = method.augment(BATCH)
    assert (changed.x != BATCH.x).flatten(1).any(dim=1).tolist() == [True, True, True, False, False, False]
    assert changed.x.min() >= 0
    assert changed.x.max() <= 1
    alone = method.augment(Batch(BATCH.x[1:2], BATCH.y[1:2], BATCH.index[1:2]))
    assert torch.equal(alone.x, changed.x[1:2])


def test_hardness_follows_the_adversarial_cross_entropy_of_each_sample():
    method = set_up("fairat", network())
    first, second = torch.randn(2, 6, 3)
    y = BATCH.y.numpy()
    ce = [-log_softmax(logits.double().numpy(), axis=1)[np.arange(6), y] for logits in (first, second)]
    for logits in (first, second):
        values = method.statistics(BATCH, AttackOutput(BATCH.x), StepOutput(torch.tensor(0.0), logits_adv=logits))
        assert not values["hard"].any()
    expected = (0.5 * ce[0] + 0.5 * ce[1])[::-1]
    np.testing.assert_allclose(method.hardness.numpy(), expected, rtol=1e-5)


def test_hard_samples_are_augmented_once_it_begins_and_until_then_it_is_sat(tmp_path):
    weights, history = trained(tmp_path, "fairat")
    sat, plain = trained(tmp_path, "sat")
    assert not torch.equal(weights, sat)
    assert history[0]["loss"] == plain[0]["loss"]
    shares = [[float(row[f"hard_in_class[{c}]"]) for c in range(3)] for row in history]
    assert shares[0] == [0.0, 0.0, 0.0]
    assert 0 < sum(shares[1]) / 3 < 0.5
    assert torch.equal(trained(tmp_path, "fairat", begin=1.0)[0], sat)
