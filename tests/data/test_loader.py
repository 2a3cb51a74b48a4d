from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairbench.data.loader import STREAM, Augmentation, Loader, augment, draw_by_class, to_unit
from fairbench.errors import InvalidInput
from fairbench.kernels import philox_uniform

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (23, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(23) % 3


def loader(images=IMAGES, labels=LABELS, **changes):
    settings = {"device": "cpu", "batch_size": 4, "seed": 7, "augment": Augmentation(crop_padding=2)}
    return Loader(images, labels, **{**settings, **changes})


def by_index(batches):
    """Images of an epoch by their index, as lists of float."""
    return {int(i): x.tolist() for batch in batches for i, x in zip(batch.index, batch.x, strict=True)}


def test_grey_levels_become_the_nearest_float32_of_their_255th():
    levels = np.arange(256, dtype=np.uint8)
    assert to_unit(torch.from_numpy(levels)).numpy().tolist() == (levels.astype(np.float32) / np.float32(255)).tolist()


def test_ordered_yields_every_image_as_it_is():
    batches = list(loader(drop_last=True).ordered())
    assert [len(batch.y) for batch in batches] == [4, 4, 4, 4, 4, 3]
    x = torch.cat([batch.x for batch in batches])
    assert x.shape == (23, 3, 6, 5)
    assert x.dtype == torch.float32
    assert x[9, 2, 5, 3].item() == pytest.approx(IMAGES[9, 5, 3, 2] / 255)
    assert torch.cat([batch.y for batch in batches]).tolist() == LABELS.tolist()
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(23))


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 4, 4, 4, 3]), (True, [4, 4, 4, 4, 4])])
def test_an_epoch_holds_each_image_once_with_its_own_label_and_position(drop_last, sizes):
    positions = np.arange(23) * 10
    loading = loader(index=positions, augment=None, drop_last=drop_last)
    batches = list(loading.epoch(0))
    assert [len(batch.y) for batch in batches] == sizes
    assert len(loading) == len(sizes)
    assert len({int(i) for batch in batches for i in batch.index}) == sum(sizes)
    for batch in batches:
        rows = (batch.index // 10).numpy()
        assert batch.y.tolist() == LABELS[rows].tolist()
        assert torch.equal(batch.x, torch.tensor(IMAGES[rows]).permute(0, 3, 1, 2) / torch.tensor(255.0))


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sizes"),
    [(11, False, [11, 12]), (11, True, [11, 11]), (22, False, [23]), (1, False, [1] * 23), (23, False, [23])],
)
def test_a_single_image_at_the_end_joins_the_batch_before_it(batch_size, drop_last, sizes):
    loading = loader(batch_size=batch_size, drop_last=drop_last)
    assert [len(batch.y) for batch in loading.epoch(0)] == sizes
    assert len(loading) == len(sizes)
    draws = loading.epoch(0, lambda: torch.ones(3))
    assert [len(batch.y) for batch in draws] == sizes


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed=7, epoch=3, **changes):
        return [int(i) for batch in loader(seed=seed, **changes).epoch(epoch) for i in batch.index]

    assert order() == order(batch_size=9, augment=None)
    assert len({tuple(o) for o in (order(), order(seed=8), order(epoch=4), range(23))}) == 4


@settings(deadline=None)
@given(batch_size=st.integers(1, 23), epoch=st.integers(0, 1000), seed=st.integers(0, 2**40))
def test_what_happens_to_an_image_does_not_depend_on_the_batch_around_it(batch_size, epoch, seed):
    whole = by_index(loader(batch_size=23, seed=seed).epoch(epoch))
    assert by_index(loader(batch_size=batch_size, seed=seed).epoch(epoch)) == whole
    part = np.array([20, 3, 11])
    some = by_index(loader(IMAGES[part], LABELS[part], index=part, batch_size=batch_size, seed=seed).epoch(epoch))
    assert some == {int(i): whole[int(i)] for i in part}


@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_crop_and_flip_are_those_of_numpy(pad_mode, padding):
    how = Augmentation(crop_padding=padding, pad_mode=pad_mode)
    index = torch.arange(23) + 100
    out = augment(to_unit(torch.tensor(IMAGES).permute(0, 3, 1, 2)), index, how, seed=5, epoch=2)
    draws = philox_uniform(5, index, 3, stream=STREAM, restart=2).numpy().astype(np.float64)
    for image, draw, found in zip(IMAGES, draws, out, strict=True):
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=pad_mode)
        top, left = int(draw[0] * (2 * padding + 1)), int(draw[1] * (2 * padding + 1))
        expected = padded[top : top + 6, left : left + 5]
        expected = expected[:, ::-1] if draw[2] < 0.5 else expected
        assert (found.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy().tolist() == expected.tolist()


def test_every_offset_and_both_mirror_images_are_equally_likely():
    pixel = np.zeros((8100, 9, 9, 1), dtype=np.uint8)
    pixel[:, 4, 4] = 255
    loading = loader(pixel, np.zeros(8100, dtype=np.int64), batch_size=8100, augment=Augmentation(flip=False))
    (batch,) = loading.epoch(0)
    places = torch.bincount(batch.x.flatten(1).argmax(1), minlength=81)
    assert places.sum() == 8100
    assert 60 < places.min() <= places.max() < 140  # 100 expected, standard deviation 10
    edge = np.zeros((8100, 1, 2, 1), dtype=np.uint8)
    edge[:, 0, 0] = 255
    flips = Augmentation(crop_padding=0)
    (batch,) = loader(edge, np.zeros(8100, dtype=np.int64), batch_size=8100, augment=flips).epoch(0)
    assert 0.47 < batch.x[:, 0, 0, 1].mean() < 0.53


def test_epochs_augment_differently():
    loading = loader()
    assert by_index(loading.epoch(0)) == by_index(loading.epoch(0))
    assert by_index(loading.epoch(0)) != by_index(loading.epoch(1))


def test_no_augmentation_leaves_images_as_they_are():
    still = Augmentation(crop_padding=0, flip=False)
    assert (
        by_index(loader(augment=still).epoch(0))
        == by_index(loader(augment=None).epoch(0))
        == by_index(loader().ordered())
    )


def test_class_counts_include_classes_without_an_image():
    assert loader().class_counts.tolist() == [8, 8, 7]
    assert loader(num_classes=5).class_counts.tolist() == [8, 8, 7, 0, 0]
    assert loader().class_counts.dtype == torch.int64


def test_the_loader_keeps_its_own_copy():
    images = IMAGES.copy()
    loading = loader(images)
    images[:] = 0
    assert by_index(loading.ordered()) == by_index(loader().ordered())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LABELS[:5]}, "23 images, 5 labels and 5 positions do not match"),
        ({"index": np.arange(4)}, "23 images, 23 labels and 4 positions do not match"),
        ({"images": IMAGES.astype(np.float32)}, "images must be uint8"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"seed": -1}, "seed not negative"),
        ({"batch_size": 24, "drop_last": True}, "23 images make no batch of 24"),
        ({"augment": Augmentation(crop_padding=5, pad_mode="reflect")}, "reflecting 5 pixels needs larger images"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(InvalidInput, match=message):
        loader(**changes)


def test_augmentation_checks_its_values():
    with pytest.raises(InvalidInput, match="crop_padding must not be negative"):
        Augmentation(crop_padding=-1)
    with pytest.raises(InvalidInput, match="pad_mode must be 'constant' or 'reflect', got 'wrap'"):
        Augmentation(pad_mode="wrap")


def test_draws_fall_on_classes_by_their_probabilities_and_within_a_class_evenly():
    labels, draws = torch.tensor([2, 0, 2, 1, 2, 0]), torch.arange(60_000)
    rows = draw_by_class(labels, torch.tensor([0.5, 0.2, 0.3]), draws, seed=0, epoch=0)
    shares = torch.bincount(rows, minlength=6) / len(draws)
    np.testing.assert_allclose(shares, [0.1, 0.25, 0.1, 0.2, 0.1, 0.25], atol=0.01)


def test_a_class_without_images_or_probability_is_never_drawn_and_the_scale_does_not_matter():
    labels, draws = torch.tensor([0, 2, 2, 0]), torch.arange(2_000)
    rows = draw_by_class(labels, torch.tensor([0.2, 0.5, 0.3]), draws, seed=0, epoch=0)
    assert abs(float((labels[rows] == 0).float().mean()) - 0.4) < 0.05
    scaled = draw_by_class(labels, torch.tensor([20.0, 50.0, 30.0]), draws, seed=0, epoch=0)
    assert torch.equal(scaled, rows)
    assert (labels[draw_by_class(labels, torch.tensor([0.0, 0.5, 0.3]), draws, seed=0, epoch=0)] == 2).all()


@settings(deadline=None)
@given(
    weights=st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3).filter(lambda w: sum(w) > 0.01),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 100),
)
def test_a_draw_depends_on_seed_epoch_and_its_place_alone(weights, size, seed, epoch):
    labels, p = torch.from_numpy(LABELS), torch.tensor(weights)
    whole = draw_by_class(labels, p, torch.arange(40), seed=seed, epoch=epoch)
    parts = [draw_by_class(labels, p, places, seed=seed, epoch=epoch) for places in torch.arange(40).split(size)]
    assert torch.equal(torch.cat(parts), whole)
    assert (p[labels[whole]] > 0).all()


def test_sampling_is_asked_before_each_batch_and_none_leaves_the_epoch_as_it_is():
    probabilities, asked = [torch.eye(3)[c] for c in (2, 0, 1)], []

    def sampling():
        asked.append(len(asked))
        return probabilities[asked[-1]] if asked[-1] < 3 else None

    batches = []
    for batch in loader().epoch(4, sampling):
        assert len(asked) == len(batches) + 1
        batches.append(batch)
    assert [len(batch.y) for batch in batches] == [4, 4, 4, 4, 4, 3]
    assert [set(batch.y.tolist()) for batch in batches[:3]] == [{2}, {0}, {1}]
    for batch, plain in list(zip(batches, loader().epoch(4), strict=True))[3:]:
        assert torch.equal(batch.index, plain.index)
        assert torch.equal(batch.x, plain.x)


def test_an_image_that_is_drawn_twice_is_augmented_twice():
    one, labels = IMAGES[:1], LABELS[:1]
    loading = loader(np.repeat(one, 8, axis=0), np.array([0, *[1] * 7]), batch_size=8)
    (batch,) = loading.epoch(0, lambda: torch.tensor([1.0, 0.0]))
    assert batch.index.tolist() == [0] * 8
    assert batch.y.tolist() == [int(labels[0])] * 8
    assert len({tuple(x.flatten().tolist()) for x in batch.x}) > 4
