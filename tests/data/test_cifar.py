"""The binary version of CIFAR, on miniatures of its layout."""

from __future__ import annotations

import numpy as np
import pytest

from fairbench.data import cifar, find_datasets, load_dataset, vision
from fairbench.errors import CorruptFile, Missing

NAMES = ["ant", "bee", "cow"]


def write_binary(root, name, rows):
    """Files of `rows` records each: label bytes, then image k whose planes are 10k, 10k + 1 and 10k + 2."""
    folder, train, test, names, label_bytes = cifar.BINARY[name]
    (root / folder).mkdir(parents=True)
    for file in (*train, test):
        labels = np.arange(rows)[:, None] % len(NAMES)
        pixels = np.repeat(np.arange(rows)[:, None] * 10 + np.arange(3), 1024, axis=1)
        coarse = np.full((rows, label_bytes - 1), 77)
        np.concatenate([coarse, labels, pixels], axis=1).astype(np.uint8).tofile(root / folder / file)
    (root / folder / names).write_text("\n".join(NAMES) + "\n")
    return root / folder


@pytest.mark.parametrize(("name", "train"), [("cifar10", 20), ("cifar100", 4)])
def test_planes_labels_and_names_are_read(tmp_path, name, train):
    write_binary(tmp_path, name, 4)
    found = cifar.read_binary(name, tmp_path)
    assert (len(found.train), len(found.test), found.class_names) == (train, 4, tuple(NAMES))
    assert found.test.labels.tolist() == [0, 1, 2, 0]
    assert found.test.images.shape == (4, 32, 32, 3)
    assert found.test.images[2, 5, 7].tolist() == [20, 21, 22]


def test_the_exact_subset_leaves_out_the_listed_positions(tmp_path, monkeypatch):
    write_binary(tmp_path, "cifar10", 4)
    monkeypatch.setattr(cifar, "INEXACT_TRAIN", (0, 6))
    monkeypatch.setattr(cifar, "INEXACT_TEST", (1,))
    found = cifar.exact(cifar.read_binary("cifar10", tmp_path))
    assert found.test.labels.tolist() == [0, 2, 0]
    assert found.train.labels.tolist() == [1, 2, 0, 0, 1, 0] + 3 * [0, 1, 2, 0]
    assert found.name == "cifar10-exact"


def test_the_listed_positions_are_official_ones():
    assert len(set(cifar.INEXACT_TRAIN)) == 75
    assert list(cifar.INEXACT_TRAIN) == sorted(cifar.INEXACT_TRAIN)
    assert max(cifar.INEXACT_TRAIN) < 50_000
    assert len(set(cifar.INEXACT_TEST)) == 20
    assert list(cifar.INEXACT_TEST) == sorted(cifar.INEXACT_TEST)
    assert max(cifar.INEXACT_TEST) < 10_000


def test_other_pixels_than_the_official_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRBENCH_DATA", str(tmp_path))
    with pytest.raises(Missing, match="datasets get cifar10"):
        load_dataset("cifar10-exact")
    write_binary(tmp_path, "cifar100", 4)
    assert find_datasets()["cifar100"] == f"found in {tmp_path}"
    with pytest.raises(CorruptFile, match="differ from the official ones of 'cifar100'"):
        load_dataset("cifar100")
    monkeypatch.setattr(vision, "CIFAR100_HASH", cifar.read_binary("cifar100", tmp_path).hash)
    assert len(load_dataset("cifar100").train) == 4


def test_the_whole_of_cifar10_is_not_read_from_files_that_nothing_verifies(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRBENCH_DATA", str(tmp_path))
    write_binary(tmp_path, "cifar10", 4)
    assert find_datasets()["cifar10"].startswith("missing")
    assert find_datasets()["cifar10-exact"] == f"found in {tmp_path}"
    with pytest.raises(Missing):
        load_dataset("cifar10")


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "no names", "label"])
def test_a_damaged_file_is_one_line(tmp_path, damage):
    home = write_binary(tmp_path, "cifar10", 4)
    file = home / "data_batch_3.bin"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "gone":
        file.unlink()
    elif damage == "no names":
        (home / "batches.meta.txt").unlink()
    else:
        file.write_bytes(b"\x09" + file.read_bytes()[1:])
    with pytest.raises((CorruptFile, Missing)) as caught:
        cifar.read_binary("cifar10", tmp_path)
    assert str(home) in str(caught.value)
    assert "\n" not in str(caught.value)
