from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairbench.data.dataset import Split
from fairbench.data.split import balanced_subset, first_of_each_class, hold_out
from fairbench.errors import InvalidInput


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(4, 30), min_size=1, max_size=6),
    per_class=st.integers(0, 3),
    seed=st.integers(0, 2**63),
    order=st.randoms(use_true_random=False),
)
def test_parts_are_disjoint_sorted_complete_and_balanced(counts, per_class, seed, order):
    values = [label for label, count in enumerate(counts) for _ in range(count)]
    order.shuffle(values)
    labels = np.array(values, dtype=np.int64)
    train, held = hold_out(labels, per_class, seed)
    assert sorted([*train, *held]) == list(range(len(labels)))
    assert list(train) == sorted(train)
    assert list(held) == sorted(held)
    assert train.dtype == held.dtype == np.int64
    assert np.bincount(labels[held], minlength=len(counts)).tolist() == [per_class] * len(counts)


def test_the_same_seed_holds_out_the_same_images_for_good():
    labels = np.arange(40) % 4
    assert hold_out(labels, 2, seed=0)[1].tolist() == [2, 3, 11, 13, 18, 20, 21, 32]
    assert hold_out(labels, 2, seed=1)[1].tolist() != hold_out(labels, 2, seed=0)[1].tolist()


def test_every_image_of_a_class_is_held_out_equally_often():
    labels = np.zeros(10, dtype=np.int64)
    held = np.concatenate([hold_out(labels, 2, seed)[1] for seed in range(1000)])
    frequency = np.bincount(held, minlength=10) / 1000  # 0.2 expected, standard error 0.013
    assert np.abs(frequency - 0.2).max() < 0.05


@pytest.mark.parametrize(
    ("labels", "per_class", "seed", "message"),
    [
        ([0, 0, 0, 1, 1], 2, 0, "cannot hold out 2 images of every class: class 1 has 2"),
        ([0, 0, 2, 2], 1, 0, "class 1 has 0"),
        ([], 1, 0, "there are no labels"),
        ([0, 0], -1, 0, "must not be negative"),
        ([0, 0], 1, -1, "must not be negative"),
    ],
)
def test_a_class_that_is_too_small_is_named(labels, per_class, seed, message):
    with pytest.raises(InvalidInput, match=message):
        hold_out(np.array(labels, dtype=np.int64), per_class, seed)


def test_the_first_images_of_each_class_then_the_second():
    labels = np.array([0, 0, 0, 1, 2, 2])
    assert first_of_each_class(labels, 3).tolist() == [0, 3, 4]
    assert first_of_each_class(labels, 5).tolist() == [0, 1, 3, 4, 5]
    assert first_of_each_class(labels, 99).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_balanced_subset_is_the_first_images_of_every_class():
    labels = np.array([1, 0, 1, 0, 0, 1, 1])
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    chosen = balanced_subset(Split(images, labels), 2)
    assert chosen.images.ravel().tolist() == [0, 1, 2, 3]
    assert chosen.labels.tolist() == [1, 0, 1, 0]
    assert balanced_subset(chosen, None) is chosen
    with pytest.raises(InvalidInput, match="class 0 has 3"):
        balanced_subset(Split(images, labels), 4)
