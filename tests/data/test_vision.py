from __future__ import annotations

import pickle
import struct
from hashlib import md5
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
from torchvision import datasets

from fairbench.data import vision
from fairbench.errors import CorruptFile, Missing

READERS = [vision.cifar10, vision.cifar100, vision.svhn, vision.mnist]


def write(file, content):
    """Write bytes and return their md5, which is what torchvision compares."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return md5(content).hexdigest()


def planes(number):
    """CIFAR's rows: image k has red 10k, green 10k + 1 and blue 10k + 2 everywhere."""
    return np.repeat(np.arange(number)[:, None] * 10 + np.arange(3), 1024, axis=1).astype(np.uint8)


def tiny_cifar(monkeypatch, root, kind, label_key, names_key):
    folder = root / kind.base_folder
    for part, name, number in (("train_list", "first", 3), ("test_list", "last", 2)):
        content = pickle.dumps({"data": planes(number), label_key: list(range(number))})
        monkeypatch.setattr(kind, part, [[name, write(folder / name, content)]])
    checked = write(folder / "names", pickle.dumps({names_key: ["ant", "bee", "cow"]}))
    monkeypatch.setattr(kind, "meta", {"filename": "names", "key": names_key, "md5": checked})


def tiny_svhn(monkeypatch, root):
    parts = {}
    for part in ("train", "test"):
        file = root / f"{part}_32x32.mat"
        pixels = np.zeros((32, 32, 3, 2), dtype=np.uint8)
        pixels[:, :, 2, 1] = 9
        scipy.io.savemat(file, {"X": pixels, "y": np.array([[10], [3]], dtype=np.uint8)})
        parts[part] = ["", file.name, md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", parts)


def tiny_mnist(root):
    raw = root / "MNIST" / "raw"
    for part, number in (("train", 2), ("t10k", 1)):
        pixels = bytes(range(number)) * 784
        write(raw / f"{part}-images-idx3-ubyte", struct.pack(">HBBIII", 0, 8, 3, number, 28, 28) + pixels)
        write(raw / f"{part}-labels-idx1-ubyte", struct.pack(">HBBI", 0, 8, 1, number) + bytes([4, 9][:number]))


@pytest.mark.parametrize(
    ("read", "kind", "label_key", "names_key"),
    [
        (vision.cifar10, datasets.CIFAR10, "labels", "label_names"),
        (vision.cifar100, datasets.CIFAR100, "fine_labels", "fine_label_names"),
    ],
)
def test_cifar_is_read_channels_last_with_its_class_names(tmp_path, monkeypatch, read, kind, label_key, names_key):
    tiny_cifar(monkeypatch, tmp_path, kind, label_key, names_key)
    data = read(tmp_path)
    assert data.class_names == ("ant", "bee", "cow")
    assert data.shape == (3, 32, 32)
    assert data.train.images[:, 31, 31].tolist() == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert data.train.labels.tolist() == [0, 1, 2]
    assert data.test.labels.tolist() == [0, 1]


def test_cifar_with_a_wrong_checksum_is_not_unpickled(tmp_path, monkeypatch):
    tiny_cifar(monkeypatch, tmp_path, datasets.CIFAR10, "labels", "label_names")
    (tmp_path / "cifar-10-batches-py" / "first").write_bytes(b"cos\nabort\n(tR.")
    with pytest.raises(CorruptFile, match="damaged; delete it and run: fairbench datasets get cifar10"):
        vision.cifar10(tmp_path)


def test_svhn_counts_its_digit_ten_as_zero(tmp_path, monkeypatch):
    tiny_svhn(monkeypatch, tmp_path)
    data = vision.svhn(tmp_path)
    assert data.train.labels.tolist() == [0, 3]
    assert data.train.images[1, 5, 6].tolist() == [0, 0, 9]
    assert data.num_classes == 10


def test_mnist_is_grey(tmp_path):
    tiny_mnist(tmp_path)
    data = vision.mnist(tmp_path)
    assert data.shape == (1, 28, 28)
    assert data.train.images[1, 0, :3, 0].tolist() == [0, 1, 0]
    assert data.train.labels.tolist() == [4, 9]
    assert data.test.labels.tolist() == [4]


@pytest.mark.parametrize("length", [0, 3, 4, 10, 500])
def test_a_truncated_mnist_is_one_line(tmp_path, length):
    tiny_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CorruptFile, match="incomplete or damaged") as caught:
        vision.mnist(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", READERS)
def test_a_missing_set_is_one_line_with_the_command_that_gets_it(tmp_path, read):
    name = read.__name__
    with pytest.raises(Missing) as caught:
        read(tmp_path)
    assert str(caught.value) == f"dataset {name!r} is not in {tmp_path}; get it with: fairbench datasets get {name}"


@pytest.mark.parametrize("name", sorted(vision.FILES))
def test_a_download_without_a_network_is_one_line(tmp_path, monkeypatch, name):
    def refuse(*_args, **_keywords):
        raise URLError("no network\nhere")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(Missing, match=f"dataset '{name}' could not be downloaded to .*no network") as caught:
        vision.fetch_vision(name, tmp_path / "new" / "folder")
    assert "\n" not in str(caught.value)


def test_what_is_there_is_not_downloaded_again(tmp_path, monkeypatch):
    tiny_mnist(tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", None)
    vision.fetch_vision("mnist", tmp_path)
    assert len(vision.mnist(tmp_path).train) == 2
