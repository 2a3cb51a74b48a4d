from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from fairbench import registry
from fairbench.config import DataConfig, Environment, Evaluation, Recipe, RunSpec, Selection, Threat, load_suite
from fairbench.conformance import check
from fairbench.data import Dataset, Split
from fairbench.errors import InvalidInput
from fairbench.method import Batch, ClassRecord, Context, Method
from fairbench.methods.absld_ablations import with_risks
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


TEACHER, NATURAL = Says(3.0, -1.0, 0.5), Says(-2.0, 0.0, 1.0)
BATCH = Batch(torch.linspace(0, 1, 24).view(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6))
NAMES = ["absld_one_set", "absld_adv_only", "absld_clean_only", "absld_kl_risk"]


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
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def record(**risks: list[float]) -> ClassRecord:
    found = ClassRecord(3, torch.device("cpu"))
    found.add(torch.arange(3), {name: torch.tensor(values) for name, values in risks.items()})
    return found


@pytest.mark.parametrize("name", [*NAMES, "adaad+adv_temperatures", "mtard+one_set_temperatures"])
def test_it_keeps_the_contract(name):
    assert [str(finding) for finding in check(name) if not finding.passed] == []


def test_risks_that_are_given_are_those_of_the_record():
    given = with_risks(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0]))
    assert given.mean("ce_adv").tolist() == [1.0, 2.0]
    assert given.mean("ce_clean").tolist() == [3.0, 0.0]


@pytest.mark.parametrize(
    ("name", "adv", "clean"),
    [
        ("absld", [0.9, 1.05, 1.05], [1.1, 1.0, 0.9]),
        ("absld_one_set", [0.9, 1.05, 1.05], None),  # both branches together: risks 3, 1 and 1
        ("absld_adv_only", [0.9, 1.05, 1.05], [1.0, 1.0, 1.0]),
        ("absld_clean_only", [1.0, 1.0, 1.0], [1.1, 1.0, 0.9]),
        ("absld_kl_risk", [1.0, 1.1, 0.9], [1.05, 1.05, 0.9]),
    ],
)
def test_temperatures_by_hand(name, adv, clean):
    method = set_up(name, network())
    (policy,) = method.policies
    risks = {"ce_adv": [6.0, 0.0, 0.0], "ce_clean": [0.0, 1.0, 2.0]}
    if name == "absld_one_set":
        risks["ce_clean"] = [0.0, 2.0, 2.0]
    policy.end_epoch(record(**risks, kl_adv=[1.0, 0.0, 2.0], kl_clean=[0.0, 0.0, 3.0]))
    torch.testing.assert_close(method.vector("temperature_adv"), torch.tensor(adv))
    torch.testing.assert_close(method.vector("temperature_clean"), torch.tensor(clean or adv))


def test_kl_risk_is_that_of_the_tempered_soft_labels():
    method = set_up("absld_kl_risk", network())
    (policy,) = method.policies
    policy.temperature_adv, policy.temperature_clean = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([5.0, 1.0, 3.0])
    attacked = method.attack(method.context.model, BATCH)
    output = method.loss(method.context.model, BATCH, attacked)
    values = method.statistics(BATCH, attacked, output)
    for branch, logits in (("adv", output.logits_adv), ("clean", output.logits_clean)):
        tau = policy.vectors()[f"temperature_{branch}"].double().numpy()[BATCH.y.numpy()][:, None]
        z, log_p = np.array([[3.0, -1.0, 0.5]]) / tau, log_softmax(logits.detach().double().numpy(), axis=1)
        expected = (softmax(z, axis=1) * (log_softmax(z, axis=1) - log_p)).sum(axis=1)
        np.testing.assert_allclose(values[f"kl_{branch}"].numpy(), expected, rtol=1e-4)
        assert not values[f"kl_{branch}"].requires_grad


def test_kl_risk_on_a_base_that_keeps_no_soft_labels_is_refused():
    method = set_up("mtard+kl_risk_temperatures", network())
    attacked = method.attack(method.context.model, BATCH)
    output = method.loss(method.context.model, BATCH, attacked)
    with pytest.raises(InvalidInput, match="no soft labels of both branches"):
        method.statistics(BATCH, attacked, output)


@pytest.mark.parametrize("name", NAMES)
def test_with_rate_zero_it_is_rslad_and_with_its_own_neither_that_nor_absld(tmp_path, name):
    weights, history = trained(tmp_path, name)
    assert torch.equal(trained(tmp_path, name, temperature_rate=0.0)[0], trained(tmp_path, "rslad")[0])
    assert not torch.equal(weights, trained(tmp_path, "rslad+absld_temperatures")[0])
    assert not torch.equal(weights, trained(tmp_path, name, temperature_rate=0.0, rate_decay=0.5)[0])
    moved = {branch: [float(history[0][f"temperature_{branch}[{c}]"]) for c in range(3)] for branch in ("adv", "clean")}
    still = {"absld_adv_only": "clean", "absld_clean_only": "adv"}.get(name)
    for branch, values in moved.items():
        assert (max(abs(value - 1) for value in values) < 1e-9) == (branch == still)
    assert (moved["adv"] == moved["clean"]) == (name == "absld_one_set")


def test_the_suite_is_that_of_digits_with_three_seeds():
    ablations, digits = load_suite("digits-ablations"), load_suite("digits")
    for setting in ("data", "model", "teacher", "recipe", "threat", "selection", "evaluation", "quick"):
        assert getattr(ablations, setting) == getattr(digits, setting)
    assert ablations.seeds == (0, 1, 2)
    assert {"rslad", "absld", *NAMES} <= set(ablations.methods)
    for name in ablations.methods:
        assert {"natural_teacher", "warm_start"}.isdisjoint(build_method(resolve_method(name)).required)


def test_listings_find_every_variant_described_without_running_the_file():
    for name in ("absld_uniform", "absld_random", "absld_manual", *NAMES):
        details = registry.methods.entry(name).details
        assert details["provenance"] == "reconstruction"
        assert details["citation"].startswith("Ablation of Zhao et al.")
        assert "ABSLD" in details["summary"]
