"""What people really feed the package: arrays of every layout, checkpoints of every script, pictures, saved tables."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz.mutation import bytes_near, junk, texts
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from fairbench import evaluate
from fairbench.errors import FairbenchError
from fairbench.leaderboard.board import load_leaderboard

N, SIDE, CLASSES = 6, 6, 3
ATTACKS = [
    "clean", "noise", "fgsm", "pgd-2:rel_step=0.5", "cw-2", "mim-2", "pgd-t-2", "apgd-ce-2", "apgd-dlr-2",
    "apgd-t:steps=2", "fab-t-2", "square:queries=3", "autoattack-fast:steps=2,queries=3",
]  # fmt: skip
TYPES = [
    "uint8",
    "float16",
    "float32",
    "float64",
    ">f4",
    ">f8",
    "longdouble",
    "bool",
    "int64",
    ">u2",
    "complex64",
    "U1",
]
LOGITS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64]
CLEAN = ["--attacks", "clean", "--eps", "0.1", "--no-flags"]
ARCH = ["--arch", "small-cnn:width=4,batchnorm=true"]


class Net(nn.Module):
    """A linear model whose logits have a type and a shape of choice."""

    def __init__(self, channels: int = 1, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (-1, CLASSES)):
        super().__init__()
        self.linear, self.dtype, self.shape = nn.Linear(channels * SIDE * SIDE, CLASSES), dtype, shape
        with torch.no_grad():
            weights = torch.linspace(-1, 1, self.linear.weight.numel()).sin().reshape(CLASSES, -1)
            self.linear.weight.copy_(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1)).to(self.dtype).reshape(self.shape)


def _pixels(channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, channels), dtype=np.uint8)


LABELS = np.arange(N) % CLASSES


def _found(model: nn.Module, images: Any, labels: Any, attack: str) -> list[int] | None:
    """The verdicts, or None where the package said in one line what is wrong."""
    said = None
    try:
        report = evaluate(model, (images, labels), attacks=[attack], eps=0.1, flags=False)
    except FairbenchError as error:
        said = str(error)
    if said is None:
        return report.verdicts[attack].tolist()
    assert said
    assert len(said.splitlines()) == 1
    assert len(said) < 1000
    return None


@pytest.mark.filterwarnings("ignore")
def test_types_and_attacks(bounded, fuzz):
    def body(value: tuple[str, torch.dtype, tuple[int, ...], str, str]) -> None:
        kind, logits, shape, attack, norm = value
        images = _pixels().astype(np.float64)
        with np.errstate(all="ignore"):
            array = (images if kind == "uint8" else images / 255).astype(kind)
        plain = logits is torch.float32 and shape == (-1, CLASSES) and kind in ("uint8", "float32")
        with bounded():
            found = None
            with contextlib.suppress(FairbenchError):
                report = evaluate(
                    Net(1, logits, shape), (array, LABELS), attacks=[attack], eps=0.1, norm=norm, flags=False
                )
                found = report.verdicts[attack]
        if plain and attack in ("clean", "noise") and norm == "Linf":
            assert found is not None
        assert found is None or (found.dtype.kind == "i" and len(found) == N)

    shapes = st.sampled_from([(-1, CLASSES), (-1, CLASSES), (-1, CLASSES), (-1,), (-1, CLASSES, 1), (1, -1)])
    kinds = st.tuples(st.sampled_from(TYPES), st.sampled_from(LOGITS), shapes, st.sampled_from(ATTACKS))
    fuzz(st.tuples(kinds, st.sampled_from(["Linf", "L2", "L1"])).map(lambda pair: (*pair[0], pair[1])), body)


def _arranged(draw: st.DrawFn, array: np.ndarray) -> np.ndarray:
    """The same values in another layout of memory, byte order or class of arrays."""
    what = draw(
        st.sampled_from(["same", "negative", "fortran", "strided", "read-only", "swapped", "broadcast", "masked"])
    )
    axis = draw(st.integers(0, array.ndim - 1))
    if what == "negative":
        return np.flip(np.flip(array, axis).copy(), axis)
    if what == "fortran":
        return np.asfortranarray(array)
    if what == "strided":
        return np.repeat(array, 2, axis)[tuple(slice(None, None, 2 if at == axis else 1) for at in range(array.ndim))]
    if what == "swapped":
        return array.astype(array.dtype.newbyteorder())
    if what == "masked":
        return np.ma.array(array)
    if what == "broadcast":
        return np.broadcast_to(array[None], (1, *array.shape))[0]
    array = array.copy()
    array.flags.writeable = what == "same"
    return array


@st.composite
def _layouts(draw: st.DrawFn) -> tuple[int, Any, Any]:
    """Images of 1 or 3 channels, and labels, as arrays, tensors or lists that hold the same values."""
    channels = draw(st.sampled_from([1, 3]))
    array, labels = _pixels(channels), LABELS.astype(draw(st.sampled_from(["int64", "int32", "uint8", "uint16"])))
    if draw(st.booleans()):
        array = (array / 255).astype(draw(st.sampled_from(["float32", "float64"])))
    form = draw(st.sampled_from(["array", "tensor", "list", "tensors", "permuted", "channels last"]))
    images: Any = _arranged(draw, array)
    if form == "list":
        images = list(images)
    elif form in ("tensor", "tensors", "permuted", "channels last"):
        images = torch.from_numpy(array.copy()).permute(0, 3, 1, 2)
        if form in ("tensor", "tensors"):
            images = list(images.contiguous()) if form == "tensors" else images.contiguous()
        elif form == "channels last":
            images = images.contiguous(memory_format=torch.channels_last)
    given = _arranged(draw, labels)
    return channels, images, draw(st.sampled_from([given, given.tolist(), torch.tensor(given.tolist())]))


@pytest.mark.filterwarnings("ignore")
def test_layouts_of_arrays_change_no_verdict(bounded, fuzz):
    def body(value: tuple[tuple[int, Any, Any], str]) -> None:
        (channels, images, labels), attack = value
        with bounded():
            found = _found(Net(channels), images, labels, attack)
        assert found == _found(Net(channels), _pixels(channels), LABELS, attack)

    fuzz(st.tuples(_layouts(), st.sampled_from(["clean", "fgsm", "apgd-ce-2"])), body)


@pytest.mark.filterwarnings("ignore")
def test_shapes_of_arrays_and_labels_that_do_not_fit(bounded, fuzz):
    sides = st.lists(st.sampled_from([0, 1, 2, 3, N, SIDE, 7]), max_size=5)
    labels = st.one_of(st.lists(st.integers(-2, 2**64), max_size=N), junk, st.just(LABELS))

    def body(value: tuple[list[int], str, Any]) -> None:
        array = np.zeros(value[0], value[1])
        with bounded():
            _found(Net(), array, value[2], "clean")
            if array.dtype.kind in "uf" and array.dtype.isnative and array.dtype.itemsize <= 8:
                _found(Net(), torch.from_numpy(array), value[2], "clean")

    fuzz(st.tuples(sides, st.sampled_from(["uint8", "float32", "float64", "int32", "bool"]), labels), body)


def _tensors() -> dict[str, torch.Tensor]:
    from fairbench.models import build_model

    return build_model("small-cnn:width=4,batchnorm=true", num_classes=4, shape=(1, 8, 8)).state_dict()


def test_checkpoints_of_training_scripts(bench, command, fuzz):
    tensors = _tensors()
    names = st.sampled_from(["state_dict", "model", "net", "state_dict_ema", "ema", "model_ema", "optimizer", "x", ""])
    prefixes = st.sampled_from(["", "module.", "model.", "ema_model.", "model_ema.module.", "_orig_mod.", "0."])
    odd = st.sampled_from(
        [
            torch.zeros(()), torch.zeros(0), torch.full((2,), torch.nan), torch.zeros(3, dtype=torch.complex64),
            torch.zeros(2, dtype=torch.int8), torch.zeros(2, dtype=torch.float8_e4m3fn), torch.zeros(2).to_sparse(),
            torch.zeros(2, dtype=torch.bfloat16), nn.Parameter(torch.zeros(2)), torch.empty(2, device="meta"), None,
            7, "text", [1, 2], {"a": 1}, torch.Size([3]), torch.float16,
        ]
    )  # fmt: skip

    def body(value: Any) -> None:
        nests, changed, kind = value
        content: dict[str, Any] = {}
        for nest, prefix in nests:
            held = {prefix + name: tensor for name, tensor in tensors.items()}
            for name, other in changed:
                held[prefix + name] = other
            content = {**content, **held} if nest == "" else {**content, nest: held}
        torch.save(content, "model.pt")
        command("evaluate", "model.pt", "--dataset", f"npz:{bench.data}", *ARCH, *CLEAN, *kind)

    name = st.one_of(st.sampled_from([*tensors, "n_averaged", "total_ops", "criterion.weight"]), texts)
    kinds = st.sampled_from([[], [], *([["--weights", kind] for kind in ("raw", "ema", "model", "x", "")])])
    nests = st.lists(st.tuples(names, prefixes), min_size=1, max_size=3)
    fuzz(st.tuples(nests, st.lists(st.tuples(name, odd), max_size=2), kinds), body)


@lru_cache
def _picture(mode: str, size: tuple[int, int], form: str, orientation: int) -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x112] = orientation
    with contextlib.suppress(OSError, KeyError, RuntimeError, ValueError):  # of modes that a format has not
        Image.new(mode, size, 1).save(stream, form, exif=exif)
    return stream.getvalue()


def test_folders_of_pictures_of_any_kind(bench, command, fuzz):
    modes = st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
    sizes = st.sampled_from([(8, 8), (8, 8), (8, 8), (8, 4), (4, 8), (1, 1), (4200, 4200), (7500, 7500)])
    forms = st.sampled_from(["PNG", "TIFF", "JPEG", "WEBP", "BMP", "GIF", "EPS", "PPM", "PDF", "ICO"])
    pictures = st.builds(_picture, modes, sizes, forms, st.integers(0, 9))
    content = st.one_of(pictures, pictures, pictures.flatmap(bytes_near), st.just(None), st.just("/dev/zero"))
    places = st.sampled_from(["a.png", "b.jpg", "b/c.tif", "b/._c.png", ".x/a.png", "c.webp", "d.txt", "e.bmp"])

    def body(classes: list[dict[str, bytes | str | None]]) -> None:
        shutil.rmtree("pictures", ignore_errors=True)
        for number, held in enumerate(classes):
            for name, content in held.items():
                path = Path("pictures/test") / f"class {number}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if content is None:
                    os.mkfifo(path)
                elif isinstance(content, str):
                    path.symlink_to(content)
                else:
                    path.write_bytes(content)
        command("evaluate", bench.run / "best.safetensors", "--dataset", "folder:pictures", *CLEAN)

    fuzz(st.lists(st.dictionaries(places, content, max_size=3), max_size=4), body)


def _mangled(rows: list[list[str]], how: list[str]) -> bytes:
    """A table as other programs save it."""
    rows = [list(row) for row in rows]
    if "upper" in how:
        rows = [[cell.upper() if cell in ("True", "False") else cell for cell in row] for row in rows]
    if "short" in how:
        rows = [[str(float(cell)) if re.fullmatch(r"\d+\.\d{4}", cell) else cell for cell in row] for row in rows]
    if "floats" in how:
        rows = [[f"{cell}.0" if cell.isdecimal() else cell for cell in row] for row in rows]
    if "index" in how:
        rows = [["" if number == 0 else str(number - 1), *row] for number, row in enumerate(rows)]
    if "padded" in how:
        rows = [*rows, *([[""] * len(rows[0])] * 2)]
    if "nan" in how:
        rows = [[cell or "NaN" for cell in row] for row in rows]
    if "spaces" in how:
        rows = [[f" {cell}" for cell in row] for row in rows]
    stream = io.StringIO()
    separator = ";" if "semicolons" in how else "\t" if "tabs" in how else ","
    quoting = csv.QUOTE_ALL if "quoted" in how else csv.QUOTE_MINIMAL
    end = "\r\n" if "crlf" in how else "\r" if "cr" in how else "\n"
    csv.writer(stream, delimiter=separator, quoting=quoting, lineterminator=end).writerows(rows)
    text = stream.getvalue() + ("\n\n" if "blank" in how else "")
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n" if "pointer" in how else text
    return text.encode("utf-16" if "utf-16" in how else "utf-8-sig" if "mark" in how else "utf-8")


MANGLES = [
    "index", "upper", "floats", "short", "padded", "nan", "spaces", "semicolons", "tabs", "quoted", "crlf", "cr",
    "blank", "pointer", "utf-16", "mark",
]  # fmt: skip
HARMLESS = {"index", "upper", "floats", "short", "padded", "quoted", "crlf", "blank", "mark"}


def test_tables_that_other_programs_saved_are_read_right_or_told_apart(bench, command, fuzz):
    rows = list(csv.reader(bench.board.read_text().splitlines()))
    whole = load_leaderboard(bench.board)

    def body(how: list[str]) -> None:
        Path("board.csv").write_bytes(_mangled(rows, how))
        code = command("leaderboard", "show", "board.csv")
        if set(how) <= HARMLESS and ("floats" not in how or "short" in how):
            assert code == 0, (how, command.said)
        if code == 0:
            found = load_leaderboard("board.csv")
            figures = [name for name in whole.columns if whole[name].dtype.kind == "f"]
            assert found[figures].equals(whole[figures]), how
            assert found["method"].tolist() == whole["method"].tolist(), how

    fuzz(st.lists(st.sampled_from(MANGLES), max_size=4, unique=True), body)
