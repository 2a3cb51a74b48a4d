from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.losses import cross_entropy
from fairbench.method.composition import resolve_method
from fairbench.methods.awp import worst_direction


def test_the_worst_direction_by_hand():
    direction = worst_direction(torch.tensor([[6.0, 8.0]]), torch.tensor([[0.0, 0.5]]))
    assert direction.tolist() == [[0.0, 10.0]]
    assert worst_direction(torch.ones(2, 2), torch.zeros(2, 2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_step_is_that_of_the_algorithm_with_a_proxy():
    gamma, rehearsal = 0.05, Rehearsal(resolve_method("sat+awp", {"awp.gamma": 0.05}))
    optimizer = rehearsal.context.optimizer
    optimizer.param_groups[0]["weight_decay"] = 0.0
    rehearsal.begin()
    model, proxy, batch = deepcopy(rehearsal.model), deepcopy(rehearsal.model), rehearsal.batches[0]
    step = rehearsal.step(batch)

    ours = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    ascent = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-cross_entropy(proxy.train()(step.attacked.x_adv), batch.y).mean()).backward()
    ascent.step()
    change = {}
    for (name, weight), moved in zip(model.named_parameters(), proxy.parameters(), strict=True):
        difference = (moved - weight).detach()
        if weight.dim() > 1 and "weight" in name:
            change[name] = gamma * weight.detach().norm() / (difference.norm() + 1e-20) * difference
            weight.data += change[name]
    loss = cross_entropy(model.train()(step.attacked.x_adv), batch.y).mean()
    loss.backward()
    ours.step()
    for name, weight in model.named_parameters():
        weight.data -= change.get(name, 0.0)
    assert len(change) == 2
    torch.testing.assert_close(step.output.loss, loss)
    found = rehearsal.model.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    # BatchNorm has seen the batch once.
    assert int(found["1.num_batches_tracked"]) == 1


def test_without_a_perturbation_it_is_the_base_alone(train_tiny):
    sat = train_tiny("sat_train_mode", {"sat_train_mode.pass_order": "adv-adv-clean"}).weights
    assert torch.equal(train_tiny("sat_awp", {"awp.gamma": 0.0}).weights, sat)
    assert torch.equal(train_tiny("sat_awp", {"awp.warm_up": 1.0}).weights, sat)


@pytest.mark.parametrize(
    ("name", "epoch", "perturbed"), [("trades_awp", 8, 1), ("trades_awp", 9, 2), ("sat_awp", 0, 2)]
)
def test_trades_awp_begins_in_its_tenth_epoch_of_two_hundred(name, epoch, perturbed):
    rehearsal = Rehearsal(resolve_method(name))
    rehearsal.context.epochs, rehearsal.context.epoch, calls = 200, epoch, []
    rehearsal.method.policies[0].around(lambda: calls.append(1))
    assert len(calls) == perturbed


def test_training_ends_elsewhere_than_its_base(train_tiny):
    for base in ("sat", "trades"):
        assert not torch.equal(train_tiny(f"{base}_awp").weights, train_tiny(base).weights)
