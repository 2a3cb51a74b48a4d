from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairbench import evaluate as public_evaluate
from fairbench.attacks import Attack, Ball, ImageRNG, resolve
from fairbench.data.dataset import Dataset, Split
from fairbench.errors import InvalidInput, UnknownName
from fairbench.evaluation.evaluate import evaluate
from fairbench.evaluation.judge import attack_verdicts
from fairbench.run.audit import audit_model
from fairbench.suites.sections import ATTACKS

BALL = Ball("Linf", 0.05)


def _net(channels: int = 3, classes: int = 5, scale: float = 2.0) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, classes)
    )
    net[4].weight.data.mul_(scale)
    return net


def _data(n: int = 60, channels: int = 3) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images and what the network in eval mode says of them, but for the first one."""
    images = np.random.default_rng(1).integers(0, 256, (n, 6, 6, channels), dtype=np.uint8)
    with torch.no_grad():
        logits = _net(channels).eval()(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    labels = logits.argmax(1).numpy()
    labels[0] = (labels[0] + 1) % 5
    return images, labels


def _dataset(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Dataset:
    split = Split(images, labels)
    return Dataset("mine", split, split, ("a", "b", "c", "d", "e"))


def test_clean_verdicts_are_predictions_and_attacks_only_take_away() -> None:
    images, labels = _data()
    report = evaluate(_net(), (images, labels), eps=0.05)
    assert list(report.verdicts) == list(ATTACKS)
    assert np.flatnonzero(report.verdicts["clean"] != labels).tolist() == [0]
    assert report.average < report.average(attack="pgd-20") + 1e-9 < report.average(attack="clean")
    assert report.average(attack="pgd-20") <= report.average(attack="fgsm")
    assert 0 < report.average < 1
    assert report.class_names == ("0", "1", "2", "3", "4")
    assert report.per_class["n"].tolist() == np.bincount(labels, minlength=5).tolist()


def test_fairbench_evaluate_is_this_function() -> None:
    assert public_evaluate is evaluate


def test_verdicts_are_the_plain_predictions_on_what_the_attack_made() -> None:
    images, labels = _data()
    net, attack = _net().eval(), resolve("pgd-20", BALL)
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.from_numpy(labels)
    verdicts = attack_verdicts(net, images, labels, [attack], batch_size=60, seed=3)
    x_adv = attack.craft(net, x, y, ImageRNG(3, torch.arange(60)))
    assert torch.equal(torch.from_numpy(verdicts["pgd-20"]), net(x_adv).argmax(1))


@pytest.mark.parametrize(
    "given",
    [
        lambda images, labels: (images / 255.0, labels),
        lambda images, labels: ((images / 255.0).astype(np.float32), labels.astype(np.uint8)),
        lambda images, labels: (torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)),
        lambda images, labels: (torch.from_numpy(images).permute(0, 3, 1, 2) / 255, labels.tolist()),
        _dataset,
    ],
)
def test_every_form_of_data_gives_the_same_verdicts(given: Callable[..., Any]) -> None:
    images, labels = _data()
    how = {"attacks": ["clean", "pgd-20"], "eps": 0.05}
    expected = evaluate(_net(), (images, labels), **how)  # type: ignore[arg-type]
    report = evaluate(_net(), given(images, labels), **how)
    for attack in expected.verdicts:
        assert np.array_equal(report.verdicts[attack], expected.verdicts[attack])


def test_arrays_that_cannot_be_written_are_read() -> None:
    images, labels = _data(10)
    images.flags.writeable = labels.flags.writeable = False
    assert evaluate(_net(), (images, labels), attacks=["clean"]).average == 0.9


def test_data_by_name_and_model_by_path(tmp_path: Path) -> None:
    from fairbench.models.architectures import build_model
    from fairbench.models.checkpoint import save_checkpoint

    images, labels = _data(40, channels=1)
    np.savez(tmp_path / "test.npz", images=images, labels=labels, class_names=np.array(list("abcde")))
    model = build_model("small-cnn:width=4", num_classes=5, shape=(1, 6, 6))
    about = {"num_classes": 5, "shape": (1, 6, 6), "mean": None, "std": None, "class_names": tuple("abcde")}
    save_checkpoint(tmp_path / "m.safetensors", model, "small-cnn:width=4", **about)
    report = evaluate(str(tmp_path / "m.safetensors"), f"npz:{tmp_path / 'test.npz'}", attacks=["clean"], device="cpu")
    assert report.class_names == tuple("abcde")
    expected = evaluate(model, (images, labels), attacks=["clean"])
    assert np.array_equal(report.verdicts["clean"], expected.verdicts["clean"])
    with pytest.raises(InvalidInput, match=r"^device 'gpu': "):
        evaluate(str(tmp_path / "m.safetensors"), f"npz:{tmp_path / 'test.npz'}", attacks=["clean"], device="gpu")
    for other, refused in (("edcba", True), ("vwxyz", False)):
        save_checkpoint(tmp_path / "m.safetensors", model, "small-cnn:width=4", **{**about, "class_names": other})
        for entry in (evaluate, audit_model):
            with pytest.raises(InvalidInput, match="classes are in the order 'e'") if refused else nullcontext():
                entry(str(tmp_path / "m.safetensors"), f"npz:{tmp_path / 'test.npz'}", attacks=["clean"], flags=False)


def test_batch_size_changes_nothing_that_matters() -> None:
    images, labels = _data(300)
    attacks = [resolve(text, BALL) for text in ("fgsm", "pgd-20", "cw-30")]
    whole = attack_verdicts(_net(), images, labels, attacks, batch_size=300)
    small = attack_verdicts(_net(), images, labels, attacks, batch_size=13)
    for attack in whole:
        assert np.mean(whole[attack] == small[attack]) >= 0.995
        assert np.any(whole[attack] != labels)


def test_image_order_changes_a_random_start_only_through_the_index() -> None:
    images, labels = _data(30)
    starts: list[Tensor] = []

    def spy(model: nn.Module, x: Tensor, y: Tensor, rng: ImageRNG) -> Tensor:
        starts.append(rng.uniform((len(x), 4)))
        return x

    for size in (30, 7):
        attack_verdicts(_net(), images, labels, [Attack("spy", "spy", spy)], batch_size=size, seed=9)
    assert torch.equal(starts[0], torch.cat(starts[1:]))


def test_eps_zero_is_the_clean_prediction() -> None:
    images, labels = _data()
    report = evaluate(_net(), (images, labels), attacks=["clean", "fgsm", "pgd-20", "cw-30"], eps=0)
    for attack in ("fgsm", "pgd-20", "cw-30"):
        assert np.array_equal(report.verdicts[attack], report.verdicts["clean"])


def test_l2_is_a_threat_too() -> None:
    images, labels = _data()
    report = evaluate(_net(), (images, labels), attacks=["clean", "pgd-20"], norm="L2", eps=0.3)
    assert 0 < report.average < report.average(attack="clean")


def test_the_model_is_left_as_it_was() -> None:
    images, labels = _data()
    net = _net().train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    evaluate(net, (images, labels), attacks=["pgd-20"], eps=0.05)
    assert [module.training for module in net.modules()] == [True, True, False, True, True, True]
    assert [parameter.requires_grad for parameter in net.parameters()] == [False, True, True, True, True, True]
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_autocast_around_it_does_not_round_the_verdict() -> None:
    images, labels = _data()
    expected = evaluate(_net(), (images, labels), attacks=["clean"])
    seen: list[torch.dtype] = []
    net = _net()
    net[0].register_forward_hook(lambda _module, _args, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = evaluate(net, (images, labels), attacks=["clean"])
    assert set(seen) == {torch.float32}
    assert np.array_equal(report.verdicts["clean"], expected.verdicts["clean"])


def test_products_are_exact_inside_and_as_set_outside() -> None:
    switches: list[Any] = [torch.backends.cudnn.conv, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    before = [switch.fp32_precision for switch in switches]
    seen: list[str] = []

    def craft(model: nn.Module, x: Tensor, y: Tensor, rng: ImageRNG) -> Tensor:
        seen.extend(switch.fp32_precision for switch in switches)
        return x

    try:
        for switch in switches:
            switch.fp32_precision = "tf32"
        attack_verdicts(_net(), *_data(10), [Attack("spy", "spy", craft)])
        assert seen == ["ieee"] * 3
        assert [switch.fp32_precision for switch in switches] == ["tf32"] * 3
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def test_attacks_that_want_all_images_get_them_and_verdicts_still_come_in_batches() -> None:
    images, labels = _data(50)
    sizes: list[int] = []

    def craft(model: nn.Module, x: Tensor, y: Tensor, rng: ImageRNG) -> Tensor:
        sizes.append(len(x))
        return x

    net, batches = _net(), []
    net.register_forward_hook(lambda _module, args, _output: batches.append(len(args[0])))
    whole = Attack("whole", "whole", craft, batch_size=10**9)
    attack_verdicts(net, images, labels, [whole], batch_size=20)
    assert sizes == [50]
    assert max(batches) == 20


def test_progress_counts_images() -> None:
    images, labels = _data(50)
    calls: list[tuple[str, int, int]] = []
    evaluate(_net(), (images, labels), attacks=["clean"], batch_size=20, progress=lambda *call: calls.append(call))
    assert calls == [("clean", 20, 50), ("clean", 40, 50), ("clean", 50, 50)]


def test_attacks_may_be_one_name_or_objects_and_the_union_is_always_there() -> None:
    images, labels = _data()
    assert list(evaluate(_net(), (images, labels), attacks="clean").verdicts) == ["clean"]
    both = evaluate(_net(), (images, labels), attacks=["clean", resolve("fgsm", BALL), "union"])
    assert list(both.verdicts) == ["clean", "fgsm"]


def test_an_attack_that_is_named_twice_runs_once() -> None:
    images, labels = _data(10)
    calls: list[tuple[str, int, int]] = []
    twice = ["clean", "pgd:rel_step=0.25,steps=20", "pgd:steps=20,rel_step=1/4", "clean"]
    evaluate(_net(), (images, labels), attacks=twice, progress=lambda *call: calls.append(call))
    assert [text for text, _, _ in calls] == ["clean", "pgd:rel_step=0.25,steps=20"]


def _float_images(value: float) -> NDArray[np.float64]:
    images = np.full((5, 6, 6, 3), 0.5)
    images[3, 0, 0, 0] = value
    return images


LABELS = np.zeros(5, dtype=np.int64)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (_float_images(1.5), LABELS, r"image 3 has pixels outside \[0,1\] or NaN; 0..255 must be uint8"),
        (_float_images(-0.1), LABELS, "image 3 has pixels outside"),
        (_float_images(np.nan), LABELS, "image 3 has pixels outside"),
        (torch.full((5, 3, 6, 6), 2.0), LABELS, "image 0 has pixels outside"),
        (np.zeros((5, 6, 6), dtype=np.uint8), LABELS, r"\[N,H,W,C\]"),
        (np.zeros((5, 6, 6, 3), dtype=np.int64), LABELS, "not int64"),
        (torch.zeros(5, 3, 6, 6, dtype=torch.int32), LABELS, "not torch.int32"),
        (np.zeros((5, 4, 6, 6), dtype=np.uint8), LABELS, "the model cannot take float32 images of 6x4x6"),
        (np.zeros((0, 6, 6, 3), dtype=np.uint8), LABELS[:0], "with images in it"),
        (np.zeros((5, 6, 6, 3), dtype=np.uint8), LABELS[:4], "5 images need 5 whole-number labels"),
        (np.zeros((5, 6, 6, 3), dtype=np.uint8), LABELS * 1.0, "5 images need 5 whole-number labels, not float64"),
        (np.zeros((5, 6, 6, 3), dtype=np.uint8), LABELS - 1, "label -1 at 0 is negative"),
        (np.zeros((5, 6, 6, 3), dtype=np.uint8), LABELS + 5, r"label 5 at 0: the model has logits for 0\.\.4"),
    ],
)
def test_bad_data_is_one_line(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        evaluate(_net(), (images, labels), attacks=["clean"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"batch_size": 1.5}, "batch_size must be a whole number, not 1.5"),
        ({"batch_size": "8"}, "batch_size must be a whole number, not '8'"),
        ({"batch_size": None}, "batch_size must be a whole number"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 10**30}, "batch_size is 10000000"),
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"seed": "a"}, "seed must be a whole number, not 'a'"),
        ({"seed": None}, "seed must be a whole number, not None"),
        ({"attacks": [None]}, "an attack is a name such as 'pgd-20', not None"),
        ({"attacks": ["clean", 20]}, "an attack is a name such as 'pgd-20', not 20"),
    ],
)
def test_an_argument_of_another_kind_is_one_line(argument: dict[str, Any], message: str) -> None:
    data = (np.zeros((5, 6, 6, 3), dtype=np.uint8), LABELS)
    with pytest.raises(InvalidInput, match=message) as caught:
        evaluate(_net(), data, **{"attacks": ["clean"], **argument})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, torch.tensor])
def test_whole_numbers_of_other_libraries_are_whole_numbers(kind: Any) -> None:
    data = (np.full((5, 6, 6, 3), 128, dtype=np.uint8), np.arange(5))
    how: dict[str, Any] = {"attacks": ["noise", "pgd-3:rel_step=0.5"], "flags": False}
    expected = evaluate(_net(), data, batch_size=2, seed=3, **how).verdicts
    found = evaluate(_net(), data, batch_size=kind(2), seed=kind(3), **how).verdicts
    assert {name: one.tolist() for name, one in found.items()} == {name: one.tolist() for name, one in expected.items()}


class Returns(nn.Module):
    """A model that returns what it was made with, whatever the images."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[: len(x)] + 0 * x.sum()


@pytest.mark.parametrize("attack", ["clean", "fgsm", "pgd-20", "cw-30", "autoattack"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_with_nan_weights_is_one_error(attack: str, bad: float) -> None:
    images, labels = _data(10)
    net = _net()
    net[0].weight.data[0, 0, 0, 0] = bad
    with pytest.raises(InvalidInput, match="logits are not finite"):
        evaluate(net, (images, labels), attacks=[attack])


@pytest.mark.parametrize("logits", [torch.zeros(10), torch.zeros(10, 1), torch.zeros(10, 2, 2), torch.zeros(3, 5)])
def test_a_model_that_does_not_return_logits_is_refused(logits: Tensor) -> None:
    with pytest.raises(InvalidInput, match=r"must return logits \[N,C\]"):
        evaluate(Returns(logits), _data(10), attacks=["clean"])


def test_a_model_of_another_number_of_classes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="the model has 7 logits, the dataset 5 classes"):
        evaluate(_net(classes=7), _dataset(*_data()), attacks=["clean"], progress=lambda *_: pytest.fail("attacks"))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda x: x + 0.2, "returned images outside its ball or outside"),
        (lambda x: x * torch.nan, "returned images that are NaN; the model's gradients may not be finite"),
        (lambda x: (x + 0.051).clamp(0, 1), "returned images outside its ball or outside"),
        (lambda x: x[:, :1], r"returned images of shape \[60, 1, 6, 6\] for \[60, 3, 6, 6\]"),
    ],
)
def test_an_attack_outside_its_threat_is_refused(made: Callable[[Tensor], Tensor], message: str) -> None:
    attack = Attack("far", "far", lambda model, x, y, rng: made(x), threat=BALL)
    with pytest.raises(InvalidInput, match=f"far: {message}"):
        attack_verdicts(_net(), *_data(), [attack])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"eps": -0.1}, "eps is a distance"),
        ({"eps": float("nan")}, "eps is a distance"),
        ({"norm": "L3"}, "unknown norm 'L3'"),
        ({"norm": "L1"}, "fgsm: is defined in Linf and L2, not in L1"),
        ({"attacks": []}, "at least one attack"),
        ({"attacks": ["pgd20"]}, "unknown attack 'pgd20'; did you mean 'pgd-20'"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_arguments_are_one_line(how: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        evaluate(_net(), _data(10), **how)


@pytest.mark.parametrize("dataset", [42, (np.zeros(3),), None])
def test_a_dataset_of_no_known_form_is_refused(dataset: Any) -> None:
    with pytest.raises(InvalidInput, match=f"a name, a Dataset, .*, or a pair .*, not {type(dataset).__name__}$"):
        evaluate(_net(), dataset)


def test_an_unknown_data_set_is_named() -> None:
    with pytest.raises(UnknownName, match="unknown dataset 'digit'; did you mean 'digits'"):
        evaluate(_net(), "digit")
