"""Tiny-ImageNet, from a miniature archive of its layout."""

from __future__ import annotations

import io
import zipfile
from hashlib import md5
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from fairbench.data import download, find_datasets, load_dataset, tiny_imagenet
from fairbench.errors import CorruptFile, Missing

NAMES = ("n02", "n01", "n03")


def picture(level, mode="RGB", side=64):
    stream = io.BytesIO()
    Image.new(mode, (side, side), level if mode == "L" else (level, 0, 255 - level)).save(stream, "JPEG", quality=100)
    return stream.getvalue()


def write_archive(path, **changed):
    """Three classes, named out of order, with two training images each; a grey one among the validation images."""
    entries = {"wnids.txt": "\n".join(NAMES)}
    for place, name in enumerate(NAMES):
        entries[f"train/{name}/{name}_boxes.txt"] = f"{name}_0.JPEG\t0\t0\t9\t9\n"
        for number in (10, 2):
            entries[f"train/{name}/images/{name}_{number}.JPEG"] = picture(60 * place + number)
    entries["val/val_annotations.txt"] = "val_1.JPEG\tn03\t0\t0\t9\t9\nval_0.JPEG\tn01\t0\t0\t9\t9\n"
    entries["val/images/val_0.JPEG"], entries["val/images/val_1.JPEG"] = picture(200), picture(90, "L")
    entries["test/images/test_0.JPEG"] = picture(1)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (entries | changed).items():
            if content is not None:
                archive.writestr(f"tiny-imagenet-200/{name}", content)
    return md5(path.read_bytes()).hexdigest()


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(tiny_imagenet, "MD5", write_archive(tmp_path / tiny_imagenet.ARCHIVE))
    return tmp_path


def test_classes_are_sorted_and_images_in_the_order_of_their_numbers(root):
    found = load_dataset("tiny-imagenet")
    assert found.class_names == ("n01", "n02", "n03")
    assert found.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    reds = found.train.images[:, 5, 5, 0].astype(int)
    assert np.abs(reds - [62, 70, 2, 10, 122, 130]).max() <= 3  # JPEG
    assert found.test.labels.tolist() == [2, 0]
    assert np.ptp(found.test.images[0].astype(int), axis=2).max() == 0  # grey, as three equal channels
    assert found.shape == (3, 64, 64)


def test_it_is_found_or_the_command_that_gets_it_is_named(root):
    assert find_datasets()["tiny-imagenet"] == f"found in {root}"
    (root / tiny_imagenet.ARCHIVE).unlink()
    assert "datasets get tiny-imagenet" in find_datasets()["tiny-imagenet"]
    with pytest.raises(Missing, match="datasets get tiny-imagenet"):
        load_dataset("tiny-imagenet")


def test_another_archive_is_refused(root, monkeypatch):
    (root / tiny_imagenet.ARCHIVE).write_bytes(b"PK")
    with pytest.raises(CorruptFile, match="not the published archive"):
        load_dataset("tiny-imagenet")


@pytest.mark.parametrize(
    ("entry", "content", "reason"),
    [
        ("wnids.txt", None, "wnids.txt"),
        ("val/val_annotations.txt", "val_1.JPEG\tn99\n", "n99"),
        ("val/images/val_0.JPEG", None, "val_0.JPEG"),
        ("val/images/val_0.JPEG", b"no picture", "UnidentifiedImageError"),
        ("val/images/val_0.JPEG", picture(9, side=32), "32x32 pixels instead of 64x64"),
        ("train/n01/images/n01_x.JPEG", picture(9), "invalid literal"),
    ],
)
def test_a_damaged_archive_is_one_line(root, monkeypatch, entry, content, reason):
    monkeypatch.setattr(tiny_imagenet, "MD5", write_archive(root / tiny_imagenet.ARCHIVE, **{entry: content}))
    with pytest.raises(CorruptFile, match=reason) as caught:
        load_dataset("tiny-imagenet")
    assert "\n" not in str(caught.value)


def test_the_archive_is_fetched_whole_or_not_at_all(root, monkeypatch):
    archive = root / tiny_imagenet.ARCHIVE
    content = archive.read_bytes()
    archive.unlink()

    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise URLError("connection lost")

    monkeypatch.setattr(tiny_imagenet, "urlopen", lambda *_, **__: Broken())
    with pytest.raises(Missing, match="could not be downloaded"):
        download("tiny-imagenet")
    assert [path.name for path in root.iterdir()] == []
    monkeypatch.setattr(tiny_imagenet, "urlopen", lambda *_, **__: io.BytesIO(content))
    assert len(download("tiny-imagenet").train) == 6
    monkeypatch.setattr(tiny_imagenet, "urlopen", None)  # present, so that nothing is downloaded again
    assert len(download("tiny-imagenet").test) == 2
