from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

import miniature
from fairbench import registry
from fairbench.data.batch import Batch
from fairbench.errors import InvalidInput
from fairbench.method.composition import build_method, resolve_method
from fairbench.method.record import ClassRecord
from fairbench.methods.absld_ablations import with_risks
from fairbench.suites.suite import load_suite
from miniature import Says, trained

TEACHER, NATURAL = Says(3.0, -1.0, 0.5), Says(-2.0, 0.0, 1.0)
set_up = partial(miniature.set_up, teacher=TEACHER, natural_teacher=NATURAL)
BATCH = Batch(torch.linspace(0, 1, 24).view(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6))
NAMES = ["absld_one_set", "absld_adv_only", "absld_clean_only", "absld_kl_risk", "absld_reversed"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def record(**risks: list[float]) -> ClassRecord:
    found = ClassRecord(3, torch.device("cpu"))
    found.add(torch.arange(3), {name: torch.tensor(values) for name, values in risks.items()})
    return found


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
        ("absld_reversed", [1.1, 0.95, 0.95], [0.9, 1.0, 1.1]),
    ],
)
def test_temperatures_by_hand(name, adv, clean):
    method = set_up(name, network(), temperature_rate=0.1)
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


def test_the_suite_is_that_of_digits_with_five_seeds_and_its_tuning():
    ablations, digits = load_suite("digits-ablations"), load_suite("digits")
    for setting in ("data", "model", "teacher", "recipe", "threat", "selection", "evaluation", "quick"):
        assert getattr(ablations, setting) == getattr(digits, setting)
    assert ablations.seeds == (0, 1, 2, 3, 4)
    assert {"rslad", "absld", *NAMES} <= set(ablations.methods)
    for name in ablations.methods:
        assert {"natural_teacher", "warm_start"}.isdisjoint(build_method(resolve_method(name)).required)


def test_listings_find_every_variant_described_without_running_the_file():
    for name in ("absld_uniform", "absld_random", "absld_manual", *NAMES):
        details = registry.methods.entry(name).details
        assert details["provenance"] == "ablation"
        assert details["citation"].startswith("Ablation of Zhao et al.")
        assert "ABSLD" in details["summary"]
