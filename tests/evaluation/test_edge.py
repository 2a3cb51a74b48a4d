"""Models of any floating type and any habit, behind the interface that attacks see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from odd_models import ATTACKS, ENSEMBLES, EPS, Wrapped, conv_net, labelled, verdicts_of
from torch import Tensor, nn

from fairbench import evaluate
from fairbench.attacks import Ball
from fairbench.errors import InvalidInput
from fairbench.evaluation.edge import Edge, as_module, at_edge
from fairbench.evaluation.victim import held


class Autocast(Wrapped):
    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


@pytest.mark.parametrize("attack", [*ATTACKS, *ENSEMBLES])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_floating_type_under_every_attack(dtype: torch.dtype, attack: str) -> None:
    found = verdicts_of(Wrapped(after=lambda z: z.to(dtype)), [attack])
    expected = verdicts_of(conv_net(), [attack])
    if dtype == torch.float64:
        assert found == expected
    assert np.mean(np.array(found[attack]) == np.array(expected[attack])) >= 0.8


@pytest.mark.parametrize("attack", ENSEMBLES)
def test_weights_of_another_type_and_autocast(attack: str) -> None:
    expected = np.array(verdicts_of(conv_net(), [attack])[attack])
    for model in (conv_net().double(), conv_net().half(), conv_net().bfloat16(), Autocast()):
        assert np.mean(np.array(verdicts_of(model, [attack])[attack]) == expected) >= 0.8


@pytest.mark.parametrize("attack", ["pgd-5:rel_step=0.5", "square:queries=5", ENSEMBLES[0]])
def test_a_default_type_of_float64_changes_nothing(attack: str) -> None:
    data, expected = labelled(), verdicts_of(conv_net(), [attack])
    single = conv_net()
    seen = []
    torch.set_default_dtype(torch.float64)
    try:
        assert verdicts_of(single, [attack], data=data) == expected
        makes = Wrapped(before=lambda x: (seen.append(torch.zeros(1).dtype), x)[1])
        makes.network = single
        verdicts_of(makes, ["clean"], data=data)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert set(seen) == {torch.float64}  # the network's own numbers are of the caller's type


@pytest.mark.filterwarnings("ignore:the model changes its input in place")
@pytest.mark.parametrize("attack", ["clean", "noise", "fgsm", "square:queries=5", ENSEMBLES[0]])
@pytest.mark.parametrize(
    "change", [lambda x: x.sub_(0.25), lambda x: x.mul_(1.0).sub_(0.25), lambda x: (x.data.sub_(0.25), x)[1]], ids="abc"
)
def test_a_model_that_changes_its_input_is_judged_as_one_that_does_not(change: Any, attack: str) -> None:
    x, y = labelled()
    before = x.clone()
    assert verdicts_of(Wrapped(change), [attack], data=(x, y)) == verdicts_of(
        Wrapped(lambda x: x - 0.25), [attack], data=(x, y)
    )
    assert torch.equal(x, before)


def test_an_attack_that_works_in_place_cannot_move_the_ball() -> None:
    from fairbench.attacks import Attack
    from fairbench.evaluation.judge import attack_verdicts

    x, y = labelled()
    before, labels = x.clone(), y.clone()

    def craft(model: nn.Module, x: Tensor, y: Tensor, rng: Any) -> Tensor:
        y.zero_()
        return x.add_(0.5).clamp_(0, 1)

    with pytest.raises(InvalidInput, match="returned images outside its ball"):
        attack_verdicts(conv_net(), x, y, [Attack("mine", "mine", craft, threat=Ball("Linf", EPS))])
    assert torch.equal(x, before)
    assert torch.equal(y, labels)


class Purifies(nn.Module):
    """A defence that optimises its input, in a graph of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.network = conv_net()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x.detach().clone().requires_grad_()
            (grad,) = torch.autograd.grad(self.network(z).logsumexp(1).sum(), z)
            return self.network((z + 0.05 * grad.sign()).clamp(0, 1))


class NoDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


WITHOUT_GRADIENT = {
    "purifies": Purifies,
    "one-hot": lambda: Wrapped(after=lambda z: nn.functional.one_hot(z.argmax(1), 5)),
    "detached": lambda: Wrapped(after=lambda z: z.detach()),
    "through numpy": lambda: Wrapped(before=lambda x: torch.from_numpy(x.detach().numpy().copy())),
    "own function": lambda: Wrapped(before=NoDerivative.apply),
}


LONG = ("detached", "through numpy")  # seconds each, and the same to an attack as one-hot


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in LONG else kind for kind in WITHOUT_GRADIENT]
)
def test_a_model_without_gradient_is_refused_by_attacks_that_need_one_and_flagged_otherwise(kind: str) -> None:
    model = WITHOUT_GRADIENT[kind]()
    for attack in ("fgsm", *ENSEMBLES):
        with pytest.raises(InvalidInput, match=r"no gradient with respect to its input: .* need none"):
            verdicts_of(model, [attack])
    report = evaluate(model, labelled(), attacks=["clean", "square:queries=5", "autoattack:attacks=square"], eps=EPS)
    assert report.flags["bad-gradient"].red


def test_a_plain_model_is_not_wrapped_and_a_wrapped_one_keeps_its_attributes() -> None:
    x, _ = labelled()
    plain, odd = conv_net(), Wrapped(after=lambda z: z.double())
    with held(plain):
        assert at_edge(plain, x)[0] is plain
    with held(odd):
        edge, classes = at_edge(odd, x)
    assert isinstance(edge, Edge)
    assert edge.before is odd.before
    assert classes == 5
    assert as_module(plain) is plain


class Sometimes(Wrapped):
    """Changes batches of more than three images in place, and takes fewer than `most` at once."""

    def __init__(self, most: int = 10**6, *, changes: bool = False) -> None:
        super().__init__()
        self.most, self.changes = most, changes

    def forward(self, x: Tensor) -> Any:
        assert len(x) < self.most, "too many images"
        return super().forward(x.sub_(0.1) if self.changes and len(x) > 3 else x)


@pytest.mark.parametrize("attack", ["clean", "noise", "fgsm", *ATTACKS, *ENSEMBLES])
@pytest.mark.parametrize(
    ("model", "said"),
    [(Sometimes(changes=True), "changes its input in place for some images only"), (Sometimes(6), "too many images")],
    ids=["changed", "batches"],
)
def test_a_model_that_fails_on_some_batches_is_one_line_under_every_attack(attack: str, model: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        evaluate(model, labelled(), attacks=[attack], eps=EPS, flags=False)
