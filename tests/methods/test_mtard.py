from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

import miniature
from fairbench.authoring.rehearsal import Rehearsal
from fairbench.data.batch import Batch
from fairbench.errors import InvalidInput
from fairbench.method.composition import resolve_method
from fairbench.method.record import AttackOutput, StepOutput
from fairbench.methods.mtard import move_share, natural_logits
from miniature import Says, trained

TEACHER, NATURAL = Says(3.0, -1.0, 0.5), Says(-2.0, 0.0, 1.0)
set_up = partial(miniature.set_up, teacher=TEACHER, natural_teacher=NATURAL)
BATCH = Batch(torch.linspace(0, 1, 24).view(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def branches(model: nn.Module, x_adv: Tensor, natural: list[float]) -> tuple[float, float]:
    """Mean KL of the adversarial and of the clean branch, in float64."""
    found = []
    for x, teacher in ((x_adv, [3.0, -1.0, 0.5]), (BATCH.x, natural)):
        log_p = log_softmax(model(x).detach().double().numpy(), axis=1)
        found.append(float((softmax(teacher) * (log_softmax(teacher) - log_p)).sum(axis=1).mean()))
    return found[0], found[1]


def moved(share: float, adv: float, natural: float, first_adv: float, first_natural: float, rate: float) -> float:
    tensors = (torch.tensor(value, dtype=torch.float64) for value in (share, adv, natural, first_adv, first_natural))
    return move_share(*tensors, rate).item()


def test_share_by_hand():
    # relative losses 1/2 and 1: the natural branch has two thirds of them
    assert moved(0.5, 1.0, 3.0, 2.0, 3.0, 0.1) == pytest.approx(0.5 + 0.1 * (2 / 3 - 0.5))


def test_the_first_step_keeps_the_share_and_equal_gains_move_it_towards_a_half():
    assert moved(0.5, 0.7, 2.1, 0.7, 2.1, 0.025) == pytest.approx(0.5)
    assert moved(0.9, 0.35, 1.05, 0.7, 2.1, 0.025) == pytest.approx(0.9 - 0.025 * 0.4)


losses = st.floats(0, 10, width=32)


@settings(deadline=None)
@given(st.floats(0, 1), losses, losses, st.floats(0.125, 10), st.floats(0.125, 10), st.floats(0, 1))
def test_share_stays_a_share(share, adv, natural, first_adv, first_natural, rate):
    assert -1e-6 <= moved(share, adv, natural, first_adv, first_natural, rate) <= 1 + 1e-6


@pytest.mark.parametrize(("one_teacher", "natural"), [(False, [-2.0, 0.0, 1.0]), (True, [3.0, -1.0, 0.5])])
def test_loss_agrees_with_float64(one_teacher, natural):
    model, x_adv = network(), (BATCH.x + 0.1).clamp(0, 1)
    method = set_up("mtard", model, one_teacher=one_teacher)
    method.share, method.share_rate = torch.tensor(0.2), 0.0
    adv, clean = branches(model, x_adv, natural)
    output = method.loss(model, BATCH, AttackOutput(x_adv))
    assert output.loss.item() == pytest.approx(0.1 * (0.8 * adv + 0.2 * clean), rel=1e-5)


def test_the_share_moves_by_the_step_s_own_losses_before_it_weighs_them():
    method, share = set_up("mtard", network()), 0.5
    model, x_adv, first = method.context.model, (BATCH.x + 0.1).clamp(0, 1), None
    for _ in range(4):
        now = np.array(branches(model, x_adv, [-2.0, 0.0, 1.0]))
        first = now if first is None else first

        def closure() -> StepOutput:
            method.context.optimizer.zero_grad()
            output = method.loss(model, BATCH, AttackOutput(x_adv))
            output.loss.backward()
            return output

        share -= 0.025 * (share - now[1] / first[1] / (now / first).sum())
        output = method.step(closure)
        assert output.loss.item() == pytest.approx(0.1 * ((1 - share) * now[0] + share * now[1]), rel=1e-5)
        assert method.share.item() == pytest.approx(share, abs=1e-6)
    assert share != 0.5


def test_a_loss_that_is_computed_twice_moves_the_share_once():
    once, twice = (set_up("mtard", network(), natural_share=0.9) for _ in range(2))
    for method, times in ((once, 1), (twice, 2)):

        def closure() -> StepOutput:
            for _ in range(times):  # noqa: B023
                method.context.optimizer.zero_grad()  # noqa: B023
                output = method.loss(method.context.model, BATCH, AttackOutput(BATCH.x))  # noqa: B023
                output.loss.backward()
            return output

        method.step(closure)
    assert once.share.item() == twice.share.item() == pytest.approx(0.9 - 0.025 * 0.4)


@pytest.mark.parametrize(("epoch", "rate"), [(7, 0.025), (8, 0.0025), (9, 0.00025)])
def test_the_rate_drops_at_the_papers_shares_of_the_schedule(epoch, rate):
    method = set_up("mtard", network(), natural_share=1.0, epoch=epoch)
    method.loss(method.context.model, BATCH, AttackOutput(BATCH.x))  # its losses are their own reference
    method.step(lambda: StepOutput(torch.tensor(0.0)))
    assert method.share.item() == pytest.approx(1 - 0.5 * rate, abs=1e-6)


def test_a_run_without_a_natural_teacher_is_told_so():
    method = set_up("mtard", network())
    method.context.natural_teacher = None
    with pytest.raises(InvalidInput, match="needs a natural teacher"):
        natural_logits(method.context, BATCH.x)


def test_both_teachers_and_the_moving_share_act_on_training(tmp_path):
    weights, _ = trained(tmp_path, "mtard")
    assert not torch.equal(weights, trained(tmp_path, "mtard", share_rate=0.0)[0])
    assert not torch.equal(weights, trained(tmp_path, "mtard", one_teacher=True)[0])


def test_on_two_classes_its_two_losses_are_no_class_wise_state():
    rehearsal = Rehearsal(resolve_method("mtard"), (8, 8))
    rehearsal.epoch()
    assert rehearsal.method.class_state() == {}
    assert (rehearsal.method.losses > 0).all()
