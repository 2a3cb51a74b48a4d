from __future__ import annotations

import pytest
import torch

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.data.batch import Batch
from fairbench.losses import cross_entropy
from fairbench.method.composition import resolve_method
from fairbench.method.record import AttackOutput
from fairbench.suites.sections import ThreatSection

MINING = {"ham.begin": 0.0}


def _mining(**settings):
    rehearsal = Rehearsal(resolve_method("ham", MINING | {f"ham.{key}": value for key, value in settings.items()}))
    rehearsal.context.threat = ThreatSection(eps=0.01)  # which leaves some samples correct
    rehearsal.begin()
    return rehearsal


def _misclassified(rehearsal: Rehearsal, x, y):
    with torch.no_grad():
        return rehearsal.model.eval()(x).argmax(dim=1) != y


def test_with_k_of_k_steps_the_misclassified_examples_are_kept():
    rehearsal = _mining(classify_step=10)  # of ten
    batch = rehearsal.batches[0]
    _, _, attacked = rehearsal.attack(batch)
    assert attacked.keep.tolist() == _misclassified(rehearsal, attacked.x_adv, batch.y).tolist()
    assert 0 < int(attacked.keep.sum()) < len(batch.y)


def test_the_remaining_steps_are_taken_from_where_the_examples_were_classified():
    sat = Rehearsal(resolve_method("sat"))
    sat.context.threat = ThreatSection(eps=0.01)
    sat.begin()
    batch = sat.batches[0]
    whole = sat.method.attack(sat.model, batch)
    for tenths in range(11):
        attacked = _mining(classify_step=tenths).attack(batch)[2]
        assert torch.equal(attacked.x_adv, whole.x_adv)
        assert torch.equal(attacked.survived, whole.survived)
    sat.context.recipe = sat.context.recipe.model_copy(update={"attack_steps": 1})
    early = sat.method.attack(sat.model, batch).x_adv
    keep = _mining().attack(batch)[2].keep  # 3 of the script's ten steps are 1 of the rehearsal's three
    assert keep.tolist() == _misclassified(sat, early, batch.y).tolist()
    assert 0 < int(keep.sum()) < len(keep)


def test_the_loss_is_the_mean_over_the_kept_examples():
    rehearsal = _mining()
    batch = rehearsal.batches[0]
    keep = torch.arange(len(batch.y)) % 3 == 0
    output = rehearsal.method.loss(rehearsal.model, batch, AttackOutput(batch.x, keep=keep))
    expected = cross_entropy(output.logits_adv[keep], batch.y[keep]).mean()
    torch.testing.assert_close(output.loss, expected)


def _step(rehearsal: Rehearsal, batch: Batch, keep: torch.Tensor) -> list[torch.Tensor]:
    """Take a step that keeps the given samples, and return copies of all weights and momenta."""
    method, optimizer = rehearsal.method, rehearsal.context.optimizer

    def closure():
        optimizer.zero_grad()
        output = method.loss(rehearsal.model.train(), batch, AttackOutput(batch.x, keep=keep))
        output.loss.backward()
        return output

    method.step(closure)
    momenta = [optimizer.state[value]["momentum_buffer"] for value in rehearsal.model.parameters()]
    return [value.detach().clone() for value in (*rehearsal.model.parameters(), *momenta)]


@pytest.mark.parametrize("first", [True, False])
def test_no_step_is_taken_when_none_is_kept(first):
    rehearsal = _mining()
    batch = rehearsal.batches[0]
    none, every = torch.zeros(len(batch.y), dtype=torch.bool), torch.ones(len(batch.y), dtype=torch.bool)
    weights = [value.detach().clone() for value in rehearsal.model.parameters()]
    before = [*weights, *map(torch.zeros_like, weights)] if first else _step(rehearsal, batch, every)
    assert all(torch.equal(old, new) for old, new in zip(before, _step(rehearsal, batch, none), strict=True))
    moved = _step(rehearsal, batch, every)
    assert not any(torch.equal(old, new) for old, new in zip(before, moved, strict=True))
    if first:
        other = _mining()  # the momentum that the empty step created does not change the next one
        assert all(torch.equal(a, b) for a, b in zip(moved, _step(other, batch, every), strict=True))


@pytest.mark.parametrize(("classes", "epoch"), [(10, 49), (100, 59)])
def test_mining_begins_in_the_scripts_fiftieth_epoch_and_on_cifar_100_in_its_sixtieth(classes, epoch):
    rehearsal = Rehearsal(resolve_method("ham", num_classes=classes))
    rehearsal.context.epochs = 120
    for index, mining in ((epoch - 1, False), (epoch, True)):
        rehearsal.context.epoch = index
        assert (rehearsal.attack(rehearsal.batches[0])[2].keep is not None) == mining


def test_training_is_sat_until_it_begins_and_another_after(train_tiny):
    sat = train_tiny("sat").weights
    assert torch.equal(train_tiny("ham", {"ham.begin": 1.0}).weights, sat)
    assert not torch.equal(train_tiny("ham").weights, sat)
