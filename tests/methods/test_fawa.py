from __future__ import annotations

import pytest
import torch

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.method.composition import resolve_method
from fairbench.method.held_out import AttackedSplit
from fairbench.methods import fawa


def _epochs(settings: dict[str, float], count: int = 2) -> tuple[Rehearsal, list[dict[str, torch.Tensor]]]:
    rehearsal, weights = Rehearsal(resolve_method("sat+fawa", settings)), []
    rehearsal.context.epochs = count
    for _ in range(count):
        rehearsal.epoch()
        weights.append({name: value.clone() for name, value in rehearsal.model.state_dict().items()})
    return rehearsal, weights


def test_every_epoch_counts_when_none_is_unfair():
    rehearsal, (first, second) = _epochs({"fawa.threshold": 0.0, "fawa.averaging_begin": 0.0})
    average = rehearsal.method.export_model().state_dict()
    for name, value in average.items():
        expected = 0.85 * first[name] + 0.15 * second[name] if value.is_floating_point() else second[name]
        torch.testing.assert_close(value, expected)
    assert any("running_var" in name for name in average)
    assert not torch.equal(average["0.weight"], second["0.weight"])


def test_the_first_fair_epoch_is_the_first_average():
    rehearsal, (_, second) = _epochs({"fawa.threshold": 0.0, "fawa.averaging_begin": 0.25})
    average = rehearsal.method.export_model()
    assert average is not rehearsal.model
    assert all(torch.equal(value, second[name]) for name, value in average.state_dict().items())
    assert int(rehearsal.method.policies[0].fair_epochs) == 1


def test_without_a_fair_epoch_the_trained_model_is_handed_out():
    rehearsal, _ = _epochs({"fawa.threshold": 1.0, "fawa.averaging_begin": 0.0})
    assert rehearsal.method.export_model() is rehearsal.model


@pytest.mark.parametrize(("classes", "right"), [(10, 1), (20, 2)])
def test_fair_is_judged_by_the_worst_tenth_of_the_classes(classes, right, monkeypatch):
    rehearsal = Rehearsal(resolve_method("sat+fawa", {"fawa.averaging_begin": 0.0}), [2] * classes)
    policy = rehearsal.method.policies[0]
    y = torch.arange(classes).repeat_interleave(10)
    for hits, fair in ((2 * right, True), (2 * right - 1, False)):
        # Classes from `right` on are always right, those before it in `hits` of all their samples together.
        predicted = torch.where(y < right, -1, y)
        predicted[torch.arange(right).repeat(10)[:hits] * 10 + torch.arange(hits) // right] = y[
            torch.arange(right).repeat(10)[:hits] * 10
        ]
        logits = torch.nn.functional.one_hot(predicted % classes, classes).float()
        monkeypatch.setattr(fawa, "attacked_split", lambda *_, logits=logits, **__: AttackedSplit(logits, logits, y))
        before = int(policy.fair_epochs)
        policy.end_epoch(rehearsal.record)
        assert (int(policy.fair_epochs) > before) == fair


def test_training_ends_with_an_average_that_is_not_the_trained_model(train_tiny):
    averaged = train_tiny("sat+fawa", {"fawa.threshold": 0.0, "fawa.averaging_begin": 0.0}).weights
    plain = train_tiny("sat+fawa", {"fawa.threshold": 1.0}).weights
    assert not torch.equal(averaged, plain)
