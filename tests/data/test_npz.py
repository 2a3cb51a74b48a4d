from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from traps import Trap

from fairbench.data.npz import read_arrays, read_npz
from fairbench.errors import CorruptFile, FairbenchError, InvalidInput, Missing

IMAGES = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
LABELS = np.array([1, 0])


def header_only(shape, dtype="|u1"):
    """The bytes of an `.npy` file whose header describes an array that is not there."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["int64", "uint8", ">i4"])
def test_what_numpy_saves_is_read_back(tmp_path, save, dtype):
    file = tmp_path / "set.npz"
    save(file, images=np.asfortranarray(IMAGES), labels=LABELS.astype(dtype), class_names=np.array(["a", "bé"]), more=1)
    split, names = read_npz(file)
    assert split.images.tolist() == IMAGES.tolist()
    assert split.images.flags.c_contiguous
    assert split.labels.tolist() == [1, 0]
    assert names == ("a", "bé")


def test_class_names_may_be_absent(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    assert read_npz(tmp_path / "set.npz")[1] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES.astype(np.float32)}, "images must be a uint8 array, got float32"),
        ({"images": IMAGES[..., 0]}, r"shape \[N,H,W,C\]"),
        ({"labels": np.array([1.0, np.nan])}, "labels must be integers, got float64"),
        ({"labels": np.array([True, False])}, "labels must be integers, got bool"),
        ({"labels": np.array([-1, 0])}, "must not be negative, got -1 at position 0"),
        ({"labels": np.array([2**63 + 1, 0], dtype=np.uint64)}, "label 9223372036854775809 is out of range"),
        ({"labels": np.array([0, 1, 0])}, r"2 images need labels of shape \[2\], got \[3\]"),
        ({"class_names": np.array([1, 2])}, "class_names must be a one-dimensional array of text"),
        ({"class_names": np.array("ab")}, "class_names must be a one-dimensional array of text"),
    ],
)
def test_arrays_that_are_no_labelled_images_are_named_with_their_file(tmp_path, change, message):
    file = tmp_path / "set.npz"
    np.savez(file, **{"images": IMAGES, "labels": LABELS, **change})
    with pytest.raises(InvalidInput, match=message) as caught:
        read_npz(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_array_is_told_with_those_that_are_there(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES, targets=LABELS)
    with pytest.raises(InvalidInput, match="no array 'labels'; it holds images, targets"):
        read_npz(tmp_path / "set.npz")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(Missing, match="no such file"):
        read_npz(tmp_path / "set.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_truncated_anywhere_is_one_line(tmp_path, save):
    file = tmp_path / "set.npz"
    save(file, images=IMAGES, labels=LABELS)
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(CorruptFile, match=r"not a readable \.npz file"):
            read_npz(file)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_byte_is_told_or_did_not_matter(tmp_path, save):
    file = tmp_path / "set.npz"
    save(file, images=IMAGES, labels=LABELS)
    whole = file.read_bytes()
    outcomes = []
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        outcomes.append(outcome(file))
    assert all("\n" not in line for line in outcomes)
    assert sum(line.startswith("CorruptFile") for line in outcomes) > len(whole) / 2


def outcome(file):
    """The message that reading raised, or an empty text if the arrays are the saved ones."""
    try:
        split, _ = read_npz(file)
    except FairbenchError as error:
        return f"{type(error).__name__}: {error}"
    return "" if (split.images == IMAGES).all() and (split.labels == LABELS).all() else "\n"


def test_a_pickled_array_is_refused_and_does_not_run(tmp_path):
    mark = tmp_path / "ran"
    np.savez(tmp_path / "set.npz", images=np.array([Trap(mark)], dtype=object), labels=LABELS)
    with pytest.raises(CorruptFile, match="array 'images' holds pickled Python objects, which are never loaded"):
        read_npz(tmp_path / "set.npz")
    assert not mark.exists()


def test_a_header_that_claims_a_gigantic_array_is_refused_before_it_is_allocated(tmp_path):
    file = tmp_path / "set.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", header_only((10**9, 32, 32, 3)))
    with pytest.raises(CorruptFile, match="array 'images' claims 3072000000000 bytes"):
        read_npz(file)


def test_an_archive_that_lies_about_the_size_of_an_entry_is_refused(tmp_path):
    file = tmp_path / "set.npz"
    shape = (10**9, 32, 32, 3)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", header_only(shape))
        archive.filelist[0].file_size = len(header_only(shape)) + 3072 * 10**9
    with pytest.raises(CorruptFile, match="claims 3072000000000 bytes"):
        read_npz(file)


def test_more_than_a_split_may_take_is_refused_even_when_it_is_there(tmp_path, monkeypatch):
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    monkeypatch.setattr("fairbench.data.npz.MAX_BYTES", 100)
    with pytest.raises(InvalidInput, match="array 'images' takes 120 bytes, more than the 100 allowed"):
        read_npz(tmp_path / "set.npz")


def test_a_compression_that_numpy_does_not_write_is_refused(tmp_path):
    file = tmp_path / "set.npz"
    with zipfile.ZipFile(file, "w", compression=zipfile.ZIP_LZMA) as archive:
        archive.writestr("images.npy", header_only((1, 1, 1, 1)) + b"0")
    with pytest.raises(CorruptFile, match=r"compressed in a way that numpy\.savez does not use"):
        read_npz(file)


@pytest.mark.parametrize(("kind", "shape"), [("<U0", (10**9,)), ("|u1", (-2, -2))])
def test_elements_that_take_no_room_are_refused(tmp_path, kind, shape):
    file = tmp_path / "set.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("class_names.npy", header.getvalue() + bytes(4 * (kind == "|u1")))
    with pytest.raises(CorruptFile, match=r"array 'class_names' holds .* of shape .* which takes no room"):
        read_arrays(file)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice_is_refused(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    np.save(tmp_path / "other.npy", LABELS[::-1])
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.write(tmp_path / "other.npy", "labels.npy")
    with pytest.raises(CorruptFile, match=r"set\.npz: array 'labels' is there twice"):
        read_npz(tmp_path / "set.npz")


def test_arrays_may_unpack_to_so_much_more_than_their_file_and_not_more(tmp_path, monkeypatch):
    monkeypatch.setattr("fairbench.data.npz.FREE_BYTES", 1_000_000)
    file = tmp_path / "set.npz"
    half = np.zeros(500_000, np.uint8)
    np.savez_compressed(file, a=half, b=half)
    assert read_arrays(file).keys() == {"a", "b"}
    np.savez_compressed(file, a=half, b=half, c=half)
    with pytest.raises(InvalidInput, match="array 'c' takes 500000 bytes, more than the"):
        read_arrays(file)
    np.savez_compressed(file, a=np.random.default_rng(0).integers(0, 256, 5_000_000, np.uint8))
    assert len(read_arrays(file)["a"]) == 5_000_000  # incompressible arrays are as large as their file


def test_a_file_names_so_many_classes_and_no_more(tmp_path):
    images, labels = np.zeros((2, 8, 8, 1), np.uint8), np.arange(2)
    np.savez_compressed(tmp_path / "x.npz", images=images, labels=labels, class_names=np.full(100_001, "a"))
    with pytest.raises(InvalidInput, match=r"100001 class_names, more than the 100000 allowed"):
        read_npz(tmp_path / "x.npz")
