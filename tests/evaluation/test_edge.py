"""Models as people have them, at the edge that attacks see: any type of number, any habit, any thread."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairbench import evaluate
from fairbench.attacks import Ball
from fairbench.copies.tracing import traced
from fairbench.errors import InvalidInput, UnknownName
from fairbench.evaluation.edge import Edge, as_module, at_edge
from fairbench.evaluation.victim import held

ATTACKS = ["pgd-5:rel_step=0.5", "apgd-dlr-5", "apgd-t:steps=3", "fab-t-3", "square:queries=5"]
ENSEMBLES = ["autoattack-fast:queries=5,steps=3", "autoattack:queries=5,steps=3"]
EPS = 0.1


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


def _data(n: int = 10) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, _net()(x).argmax(1)


class Wrapped(nn.Module):
    """A network between two functions."""

    def __init__(self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Any], Any] = lambda z: z):
        super().__init__()
        self.network, self.before, self.after = _net(), before, after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.network(self.before(x)))


class Autocast(Wrapped):
    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


def _found(model: Any, attacks: list[str], **how: Any) -> dict[str, list[int]]:
    report = evaluate(model, how.pop("data", None) or _data(), attacks=attacks, eps=EPS, flags=False, **how)
    return {attack: verdict.tolist() for attack, verdict in report.verdicts.items()}


@pytest.mark.parametrize("attack", [*ATTACKS, *ENSEMBLES])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_floating_type_under_every_attack(dtype: torch.dtype, attack: str) -> None:
    found = _found(Wrapped(after=lambda z: z.to(dtype)), [attack])
    expected = _found(_net(), [attack])
    if dtype == torch.float64:
        assert found == expected
    assert np.mean(np.array(found[attack]) == np.array(expected[attack])) >= 0.8


@pytest.mark.parametrize("attack", ENSEMBLES)
def test_weights_of_another_type_and_autocast(attack: str) -> None:
    expected = np.array(_found(_net(), [attack])[attack])
    for model in (_net().double(), _net().half(), _net().bfloat16(), Autocast()):
        assert np.mean(np.array(_found(model, [attack])[attack]) == expected) >= 0.8


@pytest.mark.parametrize("attack", ["pgd-5:rel_step=0.5", "square:queries=5", ENSEMBLES[0]])
def test_a_default_type_of_float64_changes_nothing(attack: str) -> None:
    data, expected = _data(), _found(_net(), [attack])
    single = _net()
    seen = []
    torch.set_default_dtype(torch.float64)
    try:
        assert _found(single, [attack], data=data) == expected
        makes = Wrapped(before=lambda x: (seen.append(torch.zeros(1).dtype), x)[1])
        makes.network = single
        _found(makes, ["clean"], data=data)
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
    x, y = _data()
    before = x.clone()
    assert _found(Wrapped(change), [attack], data=(x, y)) == _found(Wrapped(lambda x: x - 0.25), [attack], data=(x, y))
    assert torch.equal(x, before)


def test_a_model_that_changes_its_input_is_told_about() -> None:
    with pytest.warns(UserWarning, match="the model changes its input in place"):
        report = evaluate(Wrapped(lambda x: x.sub_(0.25)), _data(), attacks=["clean"])
    assert report.remarks == ("the model changes its input in place: it is given copies of the images",)


def test_an_attack_that_works_in_place_cannot_move_the_ball() -> None:
    from fairbench.attacks import Attack
    from fairbench.evaluation.judge import attack_verdicts

    x, y = _data()
    before, labels = x.clone(), y.clone()

    def craft(model: nn.Module, x: Tensor, y: Tensor, rng: Any) -> Tensor:
        y.zero_()
        return x.add_(0.5).clamp_(0, 1)

    with pytest.raises(InvalidInput, match="returned images outside its ball"):
        attack_verdicts(_net(), x, y, [Attack("mine", "mine", craft, threat=Ball("Linf", EPS))])
    assert torch.equal(x, before)
    assert torch.equal(y, labels)


class Purifies(nn.Module):
    """A defence that optimises its input, in a graph of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.network = _net()

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
def test_a_model_without_gradient_is_refused_where_one_is_needed_and_flagged_where_none_is(kind: str) -> None:
    model = WITHOUT_GRADIENT[kind]()
    for attack in ("fgsm", *ENSEMBLES):
        with pytest.raises(InvalidInput, match=r"no gradient with respect to its input: .* need none"):
            _found(model, [attack])
    report = evaluate(model, _data(), attacks=["clean", "square:queries=5", "autoattack:attacks=square"], eps=EPS)
    assert report.flags["bad-gradient"].red


def _loads(model: nn.Module) -> nn.Module:
    script: nn.Module = torch.jit.freeze(torch.jit.script(model.eval()))
    return script


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_modules_without_a_train_mode() -> None:
    x, _y = _data()
    with torch.no_grad():
        shape = {"x": {0: torch.export.Dim("batch", min=1, max=4096)}}
    exported = torch.export.export(Wrapped().eval(), (x,), dynamic_shapes=shape).module()
    attacks = ["clean", "fgsm", ENSEMBLES[0]]
    expected = _found(_net(), attacks)
    for model in (exported, _loads(_net()), torch.jit.trace(_net().eval(), x), torch.jit.script(_net())):
        assert _found(model, attacks) == expected
    fixed = torch.export.export(Wrapped().eval(), (x[:3],)).module()
    with pytest.raises(InvalidInput, match="the model cannot take float32 images of 1x6x6"):
        _found(fixed, ["clean"])


def test_lazy_layers_are_named_until_they_have_weights() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    with pytest.raises(InvalidInput, match="lazy layers without weights"):
        _found(model, ["clean"])
    model(_data()[0])
    assert len(_found(model, ["fgsm"])["fgsm"]) == 10


class Library:
    """A wrapper of the kind that attack libraries have: callable, and no module."""

    def __init__(self) -> None:
        self._model = _net().train()
        self._model.append(nn.Dropout(0.9))

    def __call__(self, x: Tensor) -> Tensor:
        return self._model(x)


def test_callables_that_are_no_module_and_the_modules_behind_them_are_held_still() -> None:
    expected, wrapper = _found(_net(), ["pgd-5:rel_step=0.5"]), Library()
    net = wrapper._model
    for model in (wrapper, lambda x: net(x), wrapper.__call__, functools.partial(net.forward), functools.partial(net)):
        assert _found(model, ["pgd-5:rel_step=0.5"]) == expected
        assert net.training
    for nothing in (42, nn.Linear, None):
        with pytest.raises(InvalidInput, match=r"a model is|is the class"):
            evaluate(nothing, _data())  # type: ignore[arg-type]


def test_what_behaves_is_not_wrapped_and_what_does_not_keeps_its_attributes() -> None:
    x, _ = _data()
    plain, odd = _net(), Wrapped(after=lambda z: z.double())
    with held(plain):
        assert at_edge(plain, x)[0] is plain
    with held(odd):
        edge, classes = at_edge(odd, x)
    assert isinstance(edge, Edge)
    assert edge.before is odd.before
    assert classes == 5
    assert as_module(plain) is plain


@pytest.mark.parametrize("norm", [np.inf, float("inf"), "inf", "linf", "l_inf", "Linf"])
def test_norms_and_budgets_as_other_libraries_write_them(norm: Any) -> None:
    assert Ball(norm, "8/255") == Ball("Linf", 8 / 255)
    assert _found(_net(), ["fgsm"], norm=norm) == _found(_net(), ["fgsm"])


def test_two_and_one_are_norms_and_nothing_else_is() -> None:
    assert Ball(2, np.float32(0.5)) == Ball("l2", 0.5) == Ball(2.0, torch.tensor(0.5))  # type: ignore[arg-type]
    assert Ball(1, 3).norm == "L1"  # type: ignore[arg-type]
    for norm in (0, 3, True, "L0", "", None, np.nan):
        with pytest.raises(UnknownName, match="unknown norm"):
            Ball(norm, 0.5)  # type: ignore[arg-type]
    for eps in ("8/0", "much", None, True, [1], "-1"):
        with pytest.raises(InvalidInput, match="eps is"):
            Ball("L2", eps)  # type: ignore[arg-type]


@pytest.mark.parametrize(("norm", "eps", "fits"), [("Linf", 8, 1.0), ("L2", 128, 6.0), ("L1", 3000, 36.0)])
def test_a_budget_in_grey_levels_is_refused_in_every_norm(norm: Any, eps: float, fits: float) -> None:
    for too_large in (eps, fits * 1.01):
        with pytest.raises(InvalidInput, match=f"eps {too_large:g} in {norm} reaches beyond every image.*/255"):
            evaluate(_net(), _data(), attacks=["clean"], norm=norm, eps=too_large)
    assert evaluate(_net(), _data(), attacks=["clean"], norm=norm, eps=fits).threat == (norm, fits)


@pytest.mark.parametrize(
    ("before", "word"), [(lambda x: x / 255, "0..255"), (lambda x: (x + 1) / 2, r"\[-1,1\]")], ids=["255", "signed"]
)
def test_a_model_that_expects_other_pixels_is_told_about(before: Any, word: str) -> None:
    x, y = _data(60)
    with pytest.warns(UserWarning, match=f"looks as if it expects pixels in {word}") as caught:
        report = evaluate(Wrapped(before), (x, y), attacks=["clean"], flags=False)
    assert str(caught[0].message) in report.remarks
    assert evaluate(_net(), (x, y), attacks=["clean"], flags=False).remarks == ()


def test_a_model_that_expects_normalised_pixels_is_told_about() -> None:
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    class Normalised(nn.Module):
        """Tells images of more than one deviation above the mean from others."""

        def forward(self, x: Tensor) -> Tensor:
            above = x.mean((1, 2, 3)) - 1
            return torch.stack((above, -above), 1)

    random, y = torch.rand(60, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    x = (mean + deviation * torch.where(y == 0, 1.5, 0.5)[:, None])[:, :, None, None] + 0.1 * (random - 0.5)
    with pytest.warns(UserWarning, match=r"looks as if it expects normalised pixels .* 100\.0 % in that range"):
        report = evaluate(Normalised(), (x, y), attacks=["clean"], flags=False)
    (said,) = report.remarks
    assert "of 60 images it classifies 50.0 % correctly in [0,1], and 100.0 %" in said


@pytest.mark.parametrize(
    ("attacks", "said"),
    [
        (["clean"], "no attack ran"),
        (["clean", "fgsm"], "strongest attack that ran: fgsm (N %); AutoAttack did not run in full, and may find less"),
        (
            ["autoattack:attacks=square"],
            "strongest attack that ran: autoattack:attacks=square (N %); "
            "AutoAttack did not run in full, and may find less",
        ),
        (["clean", "autoattack-fast"], "strongest attack that ran: autoattack-fast (N %)"),
    ],
)
def test_the_report_names_the_strongest_attack_and_says_when_autoattack_did_not_run(
    attacks: list[str], said: str
) -> None:
    report = evaluate(_net(), _data(4), attacks=attacks, eps=EPS, flags=False)
    share = f"{100 * report.summary(report.strongest).average:.1f} %"
    assert report.strength == said.replace("N %", share)
    assert report.strength in str(report)


def test_images_in_01_that_were_cast_to_uint8_are_told_about() -> None:
    x, y = _data()
    with pytest.warns(UserWarning, match="no pixel of the uint8 images is above 1"):
        evaluate(_net(), (x.round().to(torch.uint8), y), attacks=["clean"], flags=False)


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
        evaluate(model, _data(), attacks=[attack], eps=EPS, flags=False)


def test_weights_made_in_inference_mode_are_refused_in_one_line_and_left_alone() -> None:
    with torch.inference_mode():
        model = _net()
    with pytest.raises(InvalidInput, match=r"made in torch.inference_mode\(\)"):
        evaluate(model, _data(), attacks=["clean"])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_that_refuses_eval_mode_has_its_parts_put_into_it() -> None:
    class Stubborn(Wrapped):
        def train(self, mode: bool = True) -> Any:
            raise RuntimeError("frozen")

    model = Stubborn()
    model.network.insert(2, nn.Dropout(0.9))
    assert _found(model, ["clean", "fgsm"]) == _found(_net(), ["clean", "fgsm"])
    assert model.network.training
    assert model.network[2].training


def test_threads_that_evaluate_one_model_find_what_one_alone_finds() -> None:
    model, attacks = _net().train(), ["clean", "fgsm", ENSEMBLES[0]]
    data = _data()  # made once: it seeds torch's global generator, which all threads share
    expected, found, errors = _found(_net(), attacks, data=data), [], []

    def work() -> None:
        try:
            found.append(_found(model, attacks, data=data))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert found == [expected] * 4
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_network_is_used_while_another_thread_traces() -> None:
    other, x = _net(), _data()[0]
    inside, done = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            inside.set()
            assert done.wait(30)
            return x

    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(traced(nn.Sequential(Waits(), _net()))))
    thread.start()
    assert inside.wait(30)
    try:
        with torch.no_grad():
            assert torch.equal(other(x), _net()(x))
    finally:
        done.set()
        thread.join()
    assert torch.equal(made[0](x), _net()(x))
