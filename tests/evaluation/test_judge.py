from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairbench.attacks import Attack, Ball, ImageRNG, resolve
from fairbench.errors import FairbenchError
from fairbench.evaluation.batches import subset
from fairbench.evaluation.journal import Journal
from fairbench.evaluation.judge import attack_verdicts
from fairbench.statistics.metrics import union

BALL = Ball("Linf", 0.1)
FAST = "autoattack-fast:queries=5,steps=3,targets=1"


def _net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
    net[3].weight.data.mul_(3)
    return net.eval()


def _data(n: int = 60) -> tuple[Tensor, Tensor]:
    """Images and what the network says of them, but for the first three."""
    images = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = _net()(images).argmax(1)
    labels[:3] = (labels[:3] + 1) % 4
    return images, labels


def _clean(model: nn.Module, x: Tensor, y: Tensor, rng: ImageRNG) -> Tensor:
    return x


class Small(nn.Module):
    """A network on a device that holds so many images."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.net, self.fits, self.sizes = _net(), fits, []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.fits:
            raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")
        return self.net(x)


def test_a_device_too_small_for_a_batch_gets_halves_and_the_verdicts_stay() -> None:
    attacks = [resolve(text, BALL) for text in ("clean", "pgd-20", "fgsm")]
    expected = attack_verdicts(_net(), *_data(), attacks, batch_size=60)
    model = Small(16)
    done: list[int] = []
    with pytest.warns(UserWarning, match="out of memory with") as warned:
        found = attack_verdicts(
            model, *_data(), attacks, batch_size=60, progress=lambda _text, count, _total: done.append(count)
        )
    said = [str(warning.message) for warning in warned]
    assert said == [
        "out of memory with 60 images at once: continuing with 30",
        "out of memory with 30 images at once: continuing with 15",
    ]
    assert all(np.mean(found[name] == expected[name]) >= 0.995 for name in expected)
    assert done == [15, 30, 45, 60] * 3
    assert sorted(set(model.sizes))[-3:] == [15, 30, 60]


def test_one_image_that_does_not_fit_is_one_line() -> None:
    model = Small(60)
    model.net[0].register_forward_hook(lambda *_: setattr(model, "fits", 0))  # after the first look
    with (
        pytest.warns(UserWarning, match="2 images at once: continuing with 1"),
        pytest.raises(FairbenchError, match=r"^clean: 1 images at once are too many for cpu's memory$"),
    ):
        attack_verdicts(model, *_data(), [Attack("clean", "clean", _clean)], batch_size=2)


def test_an_attack_that_wants_all_images_does_not_get_halves() -> None:
    attack = Attack("whole", "whole", _clean, batch_size=10**9)
    with pytest.raises(FairbenchError, match=r"^whole: 60 images at once are too many for cpu's memory$"):
        attack_verdicts(Small(30), *_data(), [attack], batch_size=60)


def test_components_say_which_broke_an_image_first() -> None:
    images, labels = _data()
    attacks = [resolve(text, BALL) for text in ("fgsm", FAST)]
    found = attack_verdicts(_net(), images, labels, attacks, batch_size=60)
    assert list(found.components) == [FAST]
    parts = found.components[FAST]
    assert list(parts)[:2] == ["clean", "apgd-ce"]
    assert np.flatnonzero(parts["clean"] != found.labels).tolist() == [0, 1, 2]
    assert np.array_equal(union(found.labels, parts), found[FAST])
    gone = np.zeros(60, dtype=bool)
    for verdict in parts.values():
        assert np.array_equal(verdict == -1, gone)
        gone |= verdict != found.labels
    assert np.array_equal(gone, found[FAST] != found.labels)
    first = found.first_break()
    assert (first[found["fgsm"] != found.labels] == "fgsm").all()
    assert ((first == "") == (found.union() == found.labels)).all()
    assert {f"{FAST}#apgd-ce"} <= set(first)


def test_the_reference_says_it_too_and_is_not_changed_by_being_listened_to() -> None:
    images, labels = _data(30)
    text = "autoattack:attacks=apgd-ce+square,queries=20"
    attack = resolve(text, BALL)
    found = attack_verdicts(_net(), images, labels, [attack])
    parts = found.components[text]
    assert list(parts) == ["clean", "apgd-ce", "square"]
    assert np.flatnonzero(parts["clean"] != found.labels).tolist() == [0, 1, 2]
    assert (parts["apgd-ce"][:3] == -1).all()
    assert 3 < (parts["apgd-ce"] != found.labels).sum() < 30
    assert np.array_equal(union(found.labels, parts), found[text])
    deaf = attack_verdicts(_net(), images, labels, [replace(attack, ensemble=None)])
    assert np.array_equal(deaf[text], found[text])
    assert deaf.components == {}


@pytest.mark.parametrize("size", [7, 60])
def test_the_same_verdicts_and_components_in_any_batch(size: int) -> None:
    images, labels = _data()
    attack = resolve(FAST, BALL)
    whole = attack_verdicts(_net(), images, labels, [attack], batch_size=31)
    other = attack_verdicts(_net(), images, labels, [attack], batch_size=size)
    assert np.mean(whole[FAST] == other[FAST]) >= 0.995
    for name in whole.components[FAST]:
        assert np.mean(whole.components[FAST][name] == other.components[FAST][name]) >= 0.98


def _ensemble(notes: list[tuple[str, list[int]]]) -> Attack:
    """An ensemble that changes nothing and whose components claim what they are told to."""

    def craft(model: nn.Module, x: Tensor, y: Tensor, rng: ImageRNG, note: object) -> Tensor:
        for name, rows in notes:
            note(name, torch.tensor(rows, dtype=torch.int64))  # type: ignore[operator]
        return x

    return Attack("both", "both", _clean, ensemble=craft)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ([("clean", [0, 1, 2]), ("a", [])], {"clean": [2, 2, 2, 0], "a": [-1, -1, -1, 0]}),
        ([("clean", [0]), ("a", [2, 1]), ("b", [])], {"clean": [2, 1, 1, 0], "a": [-1, 2, 2, 0], "b": [-1, -1, -1, 0]}),
        ([("clean", []), ("a", [1])], {"clean": [2, 1, 2, 0], "a": [-1, 2, -1, 0]}),
        ([("clean", [0, 1, 2]), ("a", [3])], {"clean": [2, 2, 2, 0], "a": [-1, -1, -1, 0]}),
        ([], {}),
    ],
    ids=["clean", "by-another", "nobody-noted-it", "noted-but-not-broken", "no-notes"],
)
def test_a_component_is_believed_where_the_plain_model_agrees(
    notes: list[tuple[str, list[int]]], expected: dict[str, list[int]]
) -> None:
    class BrightIs2(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(3)[(2 * x[:, 0, 0, 0]).long()] + 0 * x.sum()

    images = torch.tensor([1.0, 1.0, 1.0, 0.0]).view(4, 1, 1, 1)
    found = attack_verdicts(BrightIs2(), images, torch.tensor([1, 1, 1, 0]), [_ensemble(notes)])
    assert {name: verdict.tolist() for name, verdict in found.components.get("both", {}).items()} == expected
    assert found["both"].tolist() == [2, 2, 2, 0]


def test_a_component_no_image_of_a_batch_was_left_for_did_not_run_there() -> None:
    images, labels = _data(9)
    labels[:3] = (_net()(images[:3]).argmax(1) + 1) % 4  # all of the first batch, so that only `clean` runs on it
    found = attack_verdicts(_net(), images, labels, [resolve(FAST, BALL)], batch_size=3)
    parts = found.components[FAST]
    assert (parts["clean"][:3] != found.labels[:3]).all()
    assert (parts["apgd-ce"][:3] == -1).all()
    assert (parts["apgd-ce"][3:] >= 0).all()


class Stopped(Exception):
    """What ends an evaluation in the middle."""


@pytest.mark.parametrize("after", [1, 4])
@pytest.mark.parametrize("text", ["pgd-20", FAST])
def test_a_journal_takes_an_evaluation_up_at_the_batch_after(tmp_path: Path, text: str, after: int) -> None:
    attack, path = resolve(text, BALL), tmp_path / "partial.jsonl"
    expected = attack_verdicts(_net(), *_data(), [attack], batch_size=13)

    def stop(_text: str, done: int, _total: int) -> None:
        if done == 13 * after:
            raise Stopped

    with pytest.raises(Stopped):
        attack_verdicts(_net(), *_data(), [attack], batch_size=13, progress=stop, journals={text: Journal(path, {})})
    journal, counts = Journal(path, {}), []
    found = attack_verdicts(
        _net(),
        *_data(),
        [attack],
        batch_size=13,
        progress=lambda _text, done, _total: counts.append(done),
        journals={text: journal},
    )
    assert counts == [13, 26, 39, 52, 60][after:]
    assert np.array_equal(found[text], expected[text])
    for name, verdict in expected.components.get(text, {}).items():
        assert np.array_equal(found.components[text][name], verdict)


def test_a_finished_journal_costs_no_forward_but_the_first_look(tmp_path: Path) -> None:
    attack, model = resolve("pgd-20", BALL), Small(60)
    first = attack_verdicts(model, *_data(), [attack], journals={"pgd-20": Journal(tmp_path / "p", {})})
    model.sizes.clear()
    again = attack_verdicts(model, *_data(), [attack], journals={"pgd-20": Journal(tmp_path / "p", {})})
    assert np.array_equal(first["pgd-20"], again["pgd-20"])
    assert model.sizes == [2, 3]  # three, because an exported program may take two images and no other number


@pytest.mark.parametrize("size", [7, 60])
def test_an_attack_on_a_subset_is_the_attack_on_those_images_alone(size: int) -> None:
    images, labels = _data()
    chosen = subset(labels.numpy(), 4)
    texts = [f"{FAST},per_class=4", "pgd-3:per_class=4,rel_step=1", "autoattack:attacks=apgd-ce,per_class=4"]
    counted: list[tuple[int, int]] = []
    found = attack_verdicts(
        _net(),
        images,
        labels,
        [resolve(text, BALL) for text in ("clean", *texts)],
        batch_size=size,
        progress=lambda text, done, total: counted.append((done, total)) if "pgd-3" in text else None,
    )
    assert counted[-1] == (len(chosen), len(chosen))
    for text in texts:
        bare = resolve(text, BALL)
        plain = [replace(bare, per_class=None)]
        alone = attack_verdicts(_net(), images[chosen], labels[chosen], plain, batch_size=size)
        (key,) = [key for key in found if key == bare.text]
        assert np.array_equal(found[key][chosen], alone[key])
        assert (np.delete(found[key], chosen) == -2).all()
        for name, verdict in alone.components.get(key, {}).items():
            assert np.array_equal(found.components[key][name][chosen], verdict)
            assert (np.delete(found.components[key][name], chosen) == -2).all()
    assert (found["clean"] != -2).all()
    assert np.array_equal(np.flatnonzero(found.union() != -2), chosen)
    assert found.summary().n == len(chosen) < found.summary("clean").n
    assert np.array_equal(np.flatnonzero(found.first_break() != ""), chosen[(found.union() != labels.numpy())[chosen]])


def test_a_subset_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    attack, (images, labels) = resolve("pgd-3:per_class=5,rel_step=1", BALL), _data()
    whole = attack_verdicts(_net(), images, labels, [attack], batch_size=6)

    class Stop(Exception):
        pass

    def stop(_text: str, done: int, _total: int) -> None:
        if done >= 12:
            raise Stop

    journal = Journal(tmp_path / "kept.jsonl", {})
    with pytest.raises(Stop):
        attack_verdicts(_net(), images, labels, [attack], batch_size=6, progress=stop, journals={attack.text: journal})
    again = Journal(tmp_path / "kept.jsonl", {})
    assert sum(len(batch.predicted) for batch in again.batches) == 12
    found = attack_verdicts(_net(), images, labels, [attack], batch_size=6, journals={attack.text: again})
    assert np.array_equal(found[attack.text], whole[attack.text])


def test_a_class_with_few_images_gives_them_all() -> None:
    assert subset(np.array([1, 0, 1, 1, 2, 1]), 2).tolist() == [0, 1, 2, 4]
