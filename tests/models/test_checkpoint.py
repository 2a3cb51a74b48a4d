from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fairbench.errors import CorruptFile, Diverged, FairbenchError, InvalidInput, Missing
from fairbench.models.architectures import build_model
from fairbench.models.checkpoint import (
    Metadata,
    check_weights,
    load_checkpoint,
    read_tensors,
    save_checkpoint,
    weights_hash,
)
from fairbench.registry import models

SHAPE = (1, 8, 8)
SPEC = "small-cnn:width=2,batchnorm=true"


def network(spec=SPEC, **changes):
    return build_model(spec, **{"num_classes": 3, "shape": SHAPE, **changes})


def save(path, model=None, spec=SPEC, **changes):
    save_checkpoint(path, model or network(), spec, **{"num_classes": 3, "shape": SHAPE, **changes})
    return path


def rewrite(path, tensors=None, **changes):
    """Change tensors, or fields of the metadata (None removes one), of a checkpoint that was written before."""
    content = {**METADATA, **changes}
    content = {key: value for key, value in content.items() if value is not ...}
    save_file(tensors or load_file(path), path, metadata={"fairbench": json.dumps(content)})


METADATA = {
    "format": 1,
    "spec": SPEC,
    "num_classes": 3,
    "shape": [1, 8, 8],
    "mean": None,
    "std": None,
    "class_names": [],
    "extra": {},
}


def test_what_is_saved_comes_back_whole(tmp_path):
    model = network(mean=(0.25,), std=(0.5,)).to(memory_format=torch.channels_last)
    model(torch.rand(8, *SHAPE))  # moves BatchNorm's running statistics
    path = save(
        tmp_path / "new" / "best.safetensors", model, mean=(0.25,), std=(0.5,), class_names="abc", epoch=4, method="sat"
    )
    opened, metadata = load_checkpoint(path)
    assert metadata == Metadata(SPEC, 3, SHAPE, (0.25,), (0.5,), ("a", "b", "c"), {"epoch": 4, "method": "sat"})
    x, weights = torch.rand(4, *SHAPE), model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in opened.state_dict().items())
    assert torch.allclose(opened.eval()(x), model.eval()(x), atol=1e-6)  # the two have other layouts in memory
    assert weights_hash(opened) == weights_hash(model)


def test_equal_models_give_equal_bytes_and_nothing_is_left_beside(tmp_path):
    model = network()
    first, second = save(tmp_path / "a.safetensors", model, epoch=1), save(tmp_path / "b.safetensors", model, epoch=1)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_failed_write_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    path = save(tmp_path / "a.safetensors")
    good = path.read_bytes()

    def fail(_tensors, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fairbench.models.checkpoint.save", fail)
    with pytest.raises(FairbenchError, match="No space left on device"):
        save(path)
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


def test_tied_weights_can_be_saved(tmp_path):
    model = network()
    model[7].weight = model[4].weight
    assert weights_hash(load_checkpoint(save(tmp_path / "a.safetensors", model))[0]) == weights_hash(model)


def test_loading_leaves_the_random_state_alone(tmp_path):
    path = save(tmp_path / "a.safetensors")
    before = torch.get_rng_state()
    load_checkpoint(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path):
    path = save(tmp_path / "a.safetensors")
    model = network()
    torch.nn.init.constant_(model[0].weight, float("nan"))
    with pytest.raises(Diverged, match=r"weight '0\.weight' is not finite"):
        save(path, model)
    load_checkpoint(path)
    rewrite(path, model.state_dict())
    with pytest.raises(CorruptFile, match=r"weight '0\.weight' is not finite"):
        load_checkpoint(path)


def nested(depth):
    inside = []
    for _ in range(depth):
        inside = [inside]
    return inside


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": object()}, "metadata is not JSON"),
        ({"score": float("nan")}, "metadata is not JSON"),
        ({"class_names": ("a", "b")}, "3 classes but 2 class_names"),
        ({"num_classes": 0}, "must be counts"),
        ({"mean": (float("inf"),)}, "must be finite numbers"),
        ({"spec": ""}, "spec must be a model's name"),
        ({"mean": (0.5,)}, "std must be one number for each of the 1 channels, got None"),
        ({"std": (0.5,)}, "mean must be one number for each of the 1 channels, got None"),
        ({"mean": (0.5, 0.5), "std": (1, 1)}, r"mean must be one number for each of the 1 channels, got \(0.5, 0.5\)"),
        ({"mean": (0.5,), "std": (-1,)}, r"std must be positive, got \[-1.0\]"),
        ({"class_names": ("a", "b", "a")}, "class name 'a' appears more than once"),
        ({"class_names": ("a", "b", "")}, "class names must be texts that are not empty"),
        ({"note": "x" * 1_000_000}, "metadata of 1000[0-9]* characters, more than the 1000000 allowed"),
        ({"note": nested(10_000)}, "metadata is not JSON: maximum recursion depth exceeded"),
    ],
)
def test_metadata_that_could_not_be_loaded_is_not_saved(tmp_path, changes, message):
    with pytest.raises(InvalidInput, match=message):
        save(tmp_path / "a.safetensors", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_file_truncated_anywhere_is_one_line(tmp_path):
    path = save(tmp_path / "a.safetensors")
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFile, match="not a readable safetensors file") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)


def test_a_damaged_header_is_refused_in_one_line_or_did_not_matter(tmp_path):
    path = save(tmp_path / "a.safetensors", epoch=1)
    whole = path.read_bytes()
    positions = range(0, 8 + int.from_bytes(whole[:8], "little"), 13)
    lines = []
    for position in positions:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x11]) + whole[position + 1 :])
        lines.append(outcome(path))
    assert all("\n" not in line for line in lines)
    assert sum(bool(line) for line in lines) > len(positions) / 2


def outcome(path):
    """The message that loading raised, or an empty text if a model was loaded."""
    try:
        load_checkpoint(path)
    except FairbenchError as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "its metadata is not valid: its format is not 1"),
        ({"spec": ...}, "Metadata"),
        ({"shape": ...}, "its metadata lacks 'shape'"),
        ({"shape": [8, 8]}, "num_classes and shape must be counts"),
        ({"shape": [1, 8, "8"]}, "num_classes and shape must be counts"),
        ({"num_classes": True}, "num_classes and shape must be counts"),
        ({"num_classes": 4}, r"weight '10\.bias' has shape \(3,\), but model .* needs \(4,\)"),
        ({"mean": ["a"], "std": [1]}, "mean and std must be finite numbers"),
        ({"mean": [0.5], "std": [0]}, "std must be positive"),
        ({"class_names": [1, 2, 3]}, "class names must be texts"),
        ({"class_names": ["a", "b", "a"]}, "class name 'a' appears more than once"),
        ({"extra": []}, "extra is not an object"),
        ({"surprise": 1}, "unexpected keyword argument 'surprise'"),
        ({"spec": "small-cnn:width=3,batchnorm=true"}, r"has shape \(2,.*\), but model .* needs \(3,"),
        ({"spec": "small-cnn:width=2"}, "weight '1.bias' is not one of model|weight '0.bias' is missing"),
        ({"spec": "small-cnn:width=1000000,batchnorm=true"}, "has shape"),
        ({"spec": "small-cnn:width=1000000000000000"}, "has shape|model 'small-cnn:width=1000000000000000'"),
        ({"spec": "small-cnn:depth=2"}, "unknown argument of model 'small-cnn': 'depth'"),
    ],
)
def test_metadata_that_does_not_fit_is_one_line(tmp_path, changes, message):
    path = save(tmp_path / "a.safetensors")
    rewrite(path, **changes)
    with pytest.raises(CorruptFile, match=message) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 10**5, '{"format": 1}', '{"a": 1, "a": 1}'])
def test_metadata_that_is_no_object_is_one_line(tmp_path, text):
    path = tmp_path / "a.safetensors"
    save_file(network().state_dict(), path, metadata={"fairbench": text})
    with pytest.raises(CorruptFile, match="its metadata"):
        load_checkpoint(path)


def test_metadata_with_a_key_that_is_given_twice_is_one_line(tmp_path):
    path = save(tmp_path / "a.safetensors")
    with safe_open(path, framework="pt") as archive:
        text = archive.metadata()["fairbench"]
    save_file(
        load_file(path), path, metadata={"fairbench": text.replace('"num_classes"', '"mean": null, "num_classes"')}
    )
    with pytest.raises(CorruptFile, match="its metadata is not valid: the key 'mean' is given twice"):
        load_checkpoint(path)


def test_a_file_of_others_has_no_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(network().state_dict(), path)
    with pytest.raises(CorruptFile, match="holds no fairbench metadata"):
        load_checkpoint(path)


def test_weights_must_have_the_models_names_and_kinds_of_number(tmp_path):
    path = save(tmp_path / "a.safetensors")
    tensors = load_file(path)
    rewrite(path, {name: value for name, value in tensors.items() if name != "3.weight"})
    with pytest.raises(CorruptFile, match=r"weight '3\.weight' is missing of model"):
        load_checkpoint(path)
    rewrite(path, {**tensors, "extra": torch.zeros(1)})
    with pytest.raises(CorruptFile, match="weight 'extra' is not one of model"):
        load_checkpoint(path)
    rewrite(path, {**tensors, "3.weight": tensors["3.weight"].long()})
    with pytest.raises(CorruptFile, match=r"weight '3\.weight' is torch\.int64"):
        load_checkpoint(path)


def test_no_file_and_a_folder_are_missing(tmp_path):
    with pytest.raises(Missing, match="no such file"):
        load_checkpoint(tmp_path / "a.safetensors")
    with pytest.raises(Missing, match="is a folder, not a checkpoint"):
        load_checkpoint(tmp_path)


def test_a_file_cannot_name_code_to_run(tmp_path, monkeypatch):
    (tmp_path / "fairbench_trap.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\n"
        "from fairbench.models.small_cnn import small_cnn\n"
        "def net(num_classes, shape): return small_cnn(num_classes, shape, width=2, batchnorm=True)\n"
    )
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "a.safetensors")
    rewrite(path, spec="fairbench_trap:net")
    with pytest.raises(InvalidInput, match="needs model 'fairbench_trap:net', which is not registered"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    model, _ = load_checkpoint(path, arch="fairbench_trap:net")
    assert model(torch.zeros(1, *SHAPE)).shape == (1, 3)


def test_a_plug_in_that_cannot_be_built_on_meta_is_still_opened(tmp_path, monkeypatch):
    def picky(num_classes, shape):
        assert torch.linspace(0, 1, 2)[1].item() == 1
        return network("small-cnn:width=2")

    monkeypatch.setitem(models._loaded, "picky", picky)
    monkeypatch.setitem(models._source, "picky", __file__)
    monkeypatch.setitem(models._details, "picky", {})
    path = save(tmp_path / "a.safetensors", network("picky"), spec="picky")
    assert load_checkpoint(path)[1].spec == "picky"
    rewrite(path, {"weight": torch.zeros(1)}, spec="picky")
    with pytest.raises(CorruptFile, match="is missing of model 'picky'"):
        load_checkpoint(path)


def test_the_hash_is_of_names_types_shapes_and_bytes():
    layer = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(layer.weight, 1.5)
    torch.nn.init.constant_(layer.bias, -2)
    by_hand = b"bias torch.float32 (1,)\n" + np.float32([-2]).tobytes()
    by_hand += b"weight torch.float32 (1, 2)\n" + np.float32([1.5, 1.5]).tobytes()
    assert weights_hash(layer) == sha256(by_hand).hexdigest()


def test_the_hash_sees_a_buffer_and_not_the_memory_format():
    model = network()
    before = weights_hash(model)
    assert weights_hash(model.to(memory_format=torch.channels_last)) == before
    model[1].running_mean += 1
    assert weights_hash(model) != before


@pytest.mark.parametrize(
    "spec",
    [f"small-cnn:width={width}" for width in ("1000000000", "1" + "0" * 30, "1e30", "inf", "nan", "1000001")],
)
def test_a_name_that_asks_for_far_more_than_the_weights_is_refused_unbuilt(tmp_path, monkeypatch, spec):
    path = _with_metadata(tmp_path, spec=spec)
    monkeypatch.setattr("fairbench.models.checkpoint.build_model", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(CorruptFile, match=f"^{path}: model '{spec}': width is larger than its weights can be of"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": [10**400], "std": [1.0]},
        {"mean": [1e39], "std": [1.0]},
        {"num_classes": 10**400},
        {"shape": [10**400, 8, 8]},
        {"num_classes": 10**12},
        {"shape": [1, 10**9, 10**9]},
        {"spec": "small-cnn:width=-5"},
        {"spec": "small-cnn:width=0"},
    ],
    ids=str,
)
def test_sizes_that_no_network_has_are_one_line(tmp_path, changes):
    path = _with_metadata(tmp_path, **changes)
    with pytest.raises(CorruptFile, match=f"^{path}: ") as caught:
        load_checkpoint(path)
    assert len(str(caught.value)) < 400


def test_metadata_and_headers_that_are_larger_than_any_are_refused_unparsed(tmp_path):
    path = _with_metadata(tmp_path, extra={"x": "a" * 1_000_001})
    with pytest.raises(CorruptFile, match="metadata of 1000"):
        load_checkpoint(path)
    path.write_bytes((10**8).to_bytes(8, "little") + b"{}")
    with pytest.raises(CorruptFile, match="a header of 100000000 bytes"):
        load_checkpoint(path)


def test_eight_bit_floats_are_no_weights(tmp_path):
    model = build_model("small-cnn:width=4", num_classes=4, shape=(1, 8, 8))
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    name = next(iter(tensors))
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    with pytest.raises(CorruptFile, match=f"weight '{name}' is torch.float8_e4m3fn, which is no kind of weight"):
        check_weights(tmp_path / "x", model, tensors, "small-cnn:width=4")


def _with_metadata(folder, **changes):
    """A checkpoint of a small network whose metadata says something else."""
    path = folder / "model.safetensors"
    model = build_model("small-cnn:width=4", num_classes=4, shape=(1, 8, 8))
    save_checkpoint(path, model, "small-cnn:width=4", 4, (1, 8, 8))
    tensors, text = read_tensors(path)
    save_file(tensors, path, metadata={"fairbench": json.dumps({**json.loads(text), **changes})})
    return path


def test_the_umask_sets_the_mode_of_a_checkpoint(tmp_path):
    before = os.umask(0o022)
    try:
        path = save(tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_two_processes_save_in_one_folder(tmp_path):
    """Each sweeps what killed writers left: a file in the course of writing is locked, and stays."""
    code = (
        "import sys; from torch import nn; from fairbench.models import save_checkpoint\n"
        "for _ in range(60): save_checkpoint(sys.argv[1], nn.Linear(2, 3), 'x', 3, (1, 1, 2))"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / name)], stderr=subprocess.PIPE)
        for name in ("a.safetensors", "b.safetensors")
    ]
    assert [writer.communicate()[1] for writer in writers] == [b"", b""]
