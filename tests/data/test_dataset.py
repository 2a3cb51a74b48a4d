from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest

from fairbench.data.dataset import Dataset, Split, content_hash
from fairbench.errors import InvalidInput


def images(number=2, channels=1, dtype=np.uint8):
    return np.zeros((number, 4, 5, channels), dtype=dtype)


def labels(*values):
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(
    ("pixels", "classes", "message"),
    [
        (images(dtype=np.float32), labels(0, 1), "images must be a uint8 array, got float32"),
        ([[0]], labels(0), "images must be a uint8 array, got list"),
        (images()[..., 0], labels(0, 1), r"shape \[N,H,W,C\] with C 1 or 3, got \[2, 4, 5\]"),
        (images(channels=4), labels(0, 1), r"C 1 or 3, got \[2, 4, 5, 4\]"),
        (images(0), labels(), "must not be empty"),
        (images(), np.array([0.0, 1.0]), "labels must be an int64 array, got float64"),
        (images(), np.array([0, 1], dtype=np.int32), "got int32"),
        (images(), labels(0), r"2 images need labels of shape \[2\], got \[1\]"),
        (images(), labels(0, 1)[:, None], r"got \[2, 1\]"),
        (images(), labels(0, -3), "must not be negative, got -3 at position 1"),
    ],
)
def test_a_split_that_is_no_labelled_images_is_refused_in_one_line(pixels, classes, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        Split(pixels, classes)
    assert "\n" not in str(caught.value)


def test_shape_is_channels_first_and_classes_are_counted_by_name():
    data = Dataset(
        "d", Split(images(channels=3), labels(0, 1)), Split(images(channels=3), labels(1, 1)), ("a", "b", "c")
    )
    assert data.shape == (3, 4, 5)
    assert data.num_classes == 3
    assert len(data.train) == 2


@pytest.mark.parametrize(
    ("test", "class_names", "message"),
    [
        (
            Split(images(), labels(0, 2)),
            ("a", "b"),
            "'d': test label 2 at position 1 is out of range: there are 2 classes",
        ),
        (Split(images(channels=3), labels(0, 1)), ("a", "b"), "training images are 4x5x1 but test images 4x5x3"),
        (Split(images(), labels(0, 1)), ("a", "a"), "class name 'a' appears more than once"),
        (Split(images(), labels(0, 1)), (), "class names must be texts that are not empty"),
        (Split(images(), labels(0, 1)), ("a", " "), "class names must be texts that are not empty"),
    ],
)
def test_splits_that_do_not_fit_together_are_refused(test, class_names, message):
    with pytest.raises(InvalidInput, match=message):
        Dataset("d", Split(images(), labels(0, 1)), test, class_names)


def test_hash_is_sha256_of_names_shapes_images_and_labels():
    split = Split(images(1), labels(7))
    by_hand = sha256(b"('a', 'b')")
    by_hand.update(b"(1, 4, 5, 1)" + bytes(20) + b"\x07" + bytes(7))
    assert content_hash(("a", "b"), split) == by_hand.hexdigest()


def test_hash_changes_with_any_pixel_label_or_name_and_not_with_memory_layout():
    def digest(pixel=0, label=1, name="b", order="C"):
        changed = np.asarray(images(), order=order)
        changed[1, 2, 3, 0] = pixel
        return Dataset("d", Split(changed, labels(0, label)), Split(images(), labels(0, 1)), ("a", name)).hash

    assert digest() == digest(order="F")
    assert len({digest(), digest(pixel=1), digest(label=0), digest(name="c")}) == 4
