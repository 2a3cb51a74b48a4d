from __future__ import annotations

import pytest
import torch
from torch import nn

from fairbench.errors import InvalidInput
from fairbench.method.record import ClassRecord
from fairbench.methods.absld_fixed import log_uniform
from miniature import set_up, trained

NAMES = ["absld_uniform", "absld_random", "absld_manual"]


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def record(*risk: float) -> ClassRecord:
    found = ClassRecord(3, torch.device("cpu"))
    found.add(torch.arange(3), {"ce_adv": torch.tensor(risk)})
    return found


def test_log_uniform_by_hand():
    draw = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(log_uniform(draw, 0.5, 8.0), torch.tensor([0.5, 2.0, 8.0]))


def test_random_temperatures_lie_between_the_bounds_and_depend_on_the_seed_alone():
    drawn = []
    for seed in (0, 0, 1):
        (policy,) = set_up("absld_random", network(), seed=seed).policies
        policy.end_epoch(record(1.0, 2.0, 3.0))
        drawn.append(torch.stack(list(policy.vectors().values())))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    for temperatures in drawn:
        assert len(temperatures.unique()) == 6
        assert temperatures.min() >= 0.5
        assert temperatures.max() <= 5


def test_manual_temperatures_are_set_by_the_first_epoch_and_never_again():
    (policy,) = set_up("absld_manual", network()).policies
    assert policy.vectors()["temperature_adv"].tolist() == [1.0, 1.0, 1.0]
    policy.end_epoch(record(3.0, 0.0, 0.0))  # gaps 2, -1, -1
    (later,) = set_up("absld_manual", network(), epoch=1).policies
    later.end_epoch(record(3.0, 0.0, 0.0))
    for vector in ("temperature_adv", "temperature_clean"):
        torch.testing.assert_close(policy.vectors()[vector], torch.tensor([0.5, 1.25, 1.25]))
        assert later.vectors()[vector].tolist() == [1.0, 1.0, 1.0]


def test_manual_temperatures_can_be_given_by_hand():
    (policy,) = set_up("absld_manual", network(), temperatures=(0.5, 2.0, 1.0)).policies
    policy.end_epoch(record(3.0, 0.0, 0.0))
    for temperatures in policy.vectors().values():
        assert temperatures.tolist() == [0.5, 2.0, 1.0]


@pytest.mark.parametrize("temperatures", [(1.0, 2.0), (1.0, 2.0, 0.0)])
def test_manual_temperatures_that_do_not_fit_are_refused(temperatures):
    with pytest.raises(InvalidInput, match="give 3 positive numbers"):
        set_up("absld_manual", network(), temperatures=temperatures)


def test_a_uniform_temperature_of_one_is_rslad(tmp_path):
    assert torch.equal(trained(tmp_path, "absld_uniform", temperature=1.0)[0], trained(tmp_path, "rslad")[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_temperatures_change_the_training_and_stay_where_they_are(tmp_path, name):
    weights, history = trained(tmp_path, name)
    assert not torch.equal(weights, trained(tmp_path, "rslad")[0])
    columns = [f"temperature_{branch}[{c}]" for branch in ("adv", "clean") for c in range(3)]
    values = [[float(row[column]) for column in columns] for row in history]
    assert values[0] == values[1]
    assert max(abs(value - 1) for value in values[0]) > 0.1
    assert (len(set(values[0])) == 1) == (name == "absld_uniform")
