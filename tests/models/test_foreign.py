from __future__ import annotations

import json
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fairbench.errors import CorruptFile, InvalidInput, Missing
from fairbench.models.foreign import fit, read_pickle, read_weights, state_dict


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def with_prefix(tensors, prefix):
    return {prefix + name: value for name, value in tensors.items()}


def test_every_format_gives_the_same_names_and_numbers(tmp_path):
    tensors = network().state_dict()
    save_file(tensors, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **{name: value.numpy() for name, value in tensors.items()})
    torch.save(tensors, tmp_path / "a.pth")
    torch.save({"epoch": 7, "model": {"state_dict": tensors}}, tmp_path / "a.pth.tar")
    torch.save(tensors, tmp_path / "upper.PT")
    foreign = {name: value.numpy() for name, value in tensors.items()}
    np.savez(
        tmp_path / "big.npz", **{name: value.astype(value.dtype.newbyteorder(">")) for name, value in foreign.items()}
    )
    for name in ("a.safetensors", "a.npz", "a.pth", "a.pth.tar", "upper.PT", "big.npz"):
        read = read_weights(tmp_path / name)
        assert set(read) == set(tensors)
        assert all(torch.equal(read[key], tensors[key]) for key in tensors), name


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "module._orig_mod.", "net.", "ddp.backbone."])
def test_wrappers_are_stripped_from_every_name(tmp_path, prefix):
    one, other = network(), network()
    fit(tmp_path, one, with_prefix(other.state_dict(), prefix), "tiny")
    assert all(torch.equal(one.state_dict()[key], value) for key, value in other.state_dict().items())


def test_a_prefix_that_the_network_has_itself_stays(tmp_path):
    one, other = (nn.ModuleDict({"model": network()}) for _ in range(2))
    fit(tmp_path, one, dict(other.state_dict()), "tiny")
    assert torch.equal(one["model"][0].weight, other["model"][0].weight)


def test_a_batch_counter_that_older_files_lack_is_no_missing_weight(tmp_path):
    tensors = {key: value for key, value in network().state_dict().items() if not key.endswith("batches_tracked")}
    model = fit(tmp_path, network(), tensors, "tiny")
    assert model[1].num_batches_tracked == 0


def test_weights_that_do_not_belong_are_named_the_first_of_each_kind(tmp_path):
    tensors = {f"layer{number}.weight": torch.zeros(1) for number in range(5)}
    with pytest.raises(InvalidInput) as caught:
        fit(tmp_path / "a.pt", network(), tensors, "tiny")
    assert str(caught.value) == (
        f"{tmp_path}/a.pt: its weights are not those of model 'tiny': "
        "missing '0.bias', '0.weight', '1.bias' and 4 more; "
        "unexpected 'layer0.weight', 'layer1.weight', 'layer2.weight' and 2 more"
    )


def test_one_weight_too_many_is_named_alone(tmp_path):
    with pytest.raises(InvalidInput, match=r"model 'tiny': unexpected 'mean'$"):
        fit(tmp_path, network(), {**network().state_dict(), "mean": torch.zeros(1)}, "tiny")


def test_weights_of_another_shape_or_not_finite_are_refused(tmp_path):
    tensors = network().state_dict()
    with pytest.raises(CorruptFile, match=r"weight '0\.bias' has shape \(3,\), but model 'tiny' needs \(2,\)"):
        fit(tmp_path, network(), {**tensors, "0.bias": torch.zeros(3)}, "tiny")
    with pytest.raises(CorruptFile, match=r"weight '0\.bias' is not finite"):
        fit(tmp_path, network(), {**tensors, "0.bias": torch.full((2,), torch.nan)}, "tiny")


def test_the_state_dict_is_found_however_deep(tmp_path):
    tensors = {"a": torch.ones(1)}
    for content in (tensors, {"net": tensors}, {"model": {"state_dict": tensors}, "optimizer": {}}):
        assert state_dict(tmp_path, content) == tensors


def test_an_archive_that_unpacks_to_more_than_the_file_is_refused_unread(tmp_path):
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pt").stat().st_size < 1 << 14
    assert read_pickle(tmp_path / "plain.pt")["a"].shape == (1 << 20,)
    with pytest.raises(CorruptFile, match=r"is compressed, which torch\.save never does"):
        read_pickle(tmp_path / "bomb.pt")


def test_an_array_of_pickled_objects_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", weight=np.array([{}], dtype=object))
    with pytest.raises(CorruptFile, match="array 'weight' holds pickled Python objects, which are never loaded"):
        read_weights(tmp_path / "a.npz")


def test_an_array_that_is_no_number_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", weight=np.array(["a"]))
    with pytest.raises(CorruptFile, match="array 'weight' is <U1, which is no kind of weight"):
        read_weights(tmp_path / "a.npz")


def huge_header(path):
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def huge_tensor(path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def half(path):
    save_file(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("damage", [huge_header, huge_tensor, half, lambda path: path.write_bytes(b"")])
def test_a_damaged_safetensors_file_is_one_line(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    damage(path)
    with pytest.raises(CorruptFile, match="not a readable safetensors file") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_archive_of_arrays_is_one_line(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **{name: value.numpy() for name, value in network().state_dict().items()})
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFile) as caught:
            read_weights(path)
        assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_told_from_what_is_not_there(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InvalidInput, match=r"ends in one of \.safetensors, \.npz, \.pt"):
        read_weights(tmp_path / "a.txt")
    with pytest.raises(Missing, match="no such file"):
        read_weights(tmp_path / "a.pt")
    with pytest.raises(Missing, match="is a folder"):
        read_weights(tmp_path)


# ---------------------------------------------------------------- raw weights and their average

AVERAGES = [
    "state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "model_ema_state_dict", "net_ema", "ema",
    "averaged_model", "swa_model", "swa_state_dict", "shadow",
]  # fmt: skip


def filled(value):
    return {name: torch.full_like(tensor, value) for name, tensor in network().state_dict().items()}


def opened(path, kind=None):
    """The only weight of a checkpoint, read and fitted as `open_model` does it."""
    fitted = fit(path, network(), read_weights(path, kind), "tiny", kind)
    (value,) = {float(tensor.detach().flatten()[0]) for tensor in fitted.parameters()}
    return value


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("average", AVERAGES)
def test_of_raw_and_averaged_weights_one_is_chosen_and_named(tmp_path, capsys, nest, average):
    path = tmp_path / "a.pt"
    torch.save({average: filled(2.0), nest: filled(1.0), "epoch": 7}, path)
    assert opened(path) == 1.0
    assert capsys.readouterr().err == (
        f"{path}: read the raw weights, {nest!r}; it holds averaged ones too, {average!r}: "
        "--weights ema (weights='ema') reads those\n"
    )
    assert [opened(path, kind) for kind in ("raw", "ema", nest, average)] == [1.0, 2.0, 1.0, 2.0]
    assert capsys.readouterr().err == ""
    with pytest.raises(InvalidInput, match="holds no weights 'other'"):
        opened(path, "other")


@pytest.mark.parametrize("average", AVERAGES)
def test_averaged_weights_alone_are_read_and_named(tmp_path, capsys, average):
    path = tmp_path / "a.pt"
    torch.save({average: filled(2.0)}, path)
    assert opened(path) == 2.0
    assert capsys.readouterr().err == f"{path}: read the averaged weights, {average!r}: it holds no others\n"
    assert opened(path, "ema") == 2.0
    with pytest.raises(InvalidInput, match=f"holds no raw weights, only {average}"):
        opened(path, "raw")


def test_raw_weights_alone_are_no_average(tmp_path, capsys):
    path = tmp_path / "a.pt"
    torch.save({"state_dict": filled(1.0)}, path)
    assert opened(path) == opened(path, "raw") == 1.0
    with pytest.raises(InvalidInput, match=r"holds no weights 'ema'; leave out weights \(--weights\)"):
        opened(path, "ema")
    assert capsys.readouterr().err == ""


def test_weights_inside_a_nest_are_chosen_there(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"model": {"state_dict": filled(1.0), "state_dict_ema": filled(2.0)}}, path)
    assert [opened(path, kind) for kind in (None, "raw", "ema")] == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "npz"])
@pytest.mark.parametrize("prefixes", [("model.", "ema_model."), ("net.", "ema."), ("module.", "model_ema.module.")])
def test_a_training_module_that_holds_both_in_one_state_dict(tmp_path, capsys, suffix, prefixes):
    path = tmp_path / f"a.{suffix}"
    raw = "" if prefixes[0] == "net." else prefixes[0]  # no prefix at all, as where the average is a part of the model
    tensors = with_prefix(filled(1.0), raw) | with_prefix(filled(2.0), prefixes[1])
    if suffix == "pt":
        torch.save({"state_dict": tensors}, path)
    elif suffix == "npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        save_file(tensors, path)
    assert opened(path) == 1.0
    assert f"it holds averaged ones too, '{prefixes[1].partition('.')[0]}.'" in capsys.readouterr().err
    assert [opened(path, kind) for kind in ("raw", "ema", prefixes[1].partition(".")[0])] == [1.0, 2.0, 2.0]


def test_an_averaged_model_of_torch_is_read(tmp_path, capsys):
    averaged = torch.optim.swa_utils.AveragedModel(network())
    path = tmp_path / "a.pt"
    torch.save(averaged.state_dict(), path)
    wanted = averaged.module.state_dict()
    for kind in (None, "ema"):
        fitted = fit(path, network(), read_weights(path, kind), "tiny", kind).state_dict()
        assert all(torch.equal(fitted[name], wanted[name]) for name in wanted)
    torch.save(
        {"model": filled(1.0), "ema": {"n_averaged": torch.tensor(3), **with_prefix(filled(2.0), "module.")}}, path
    )
    assert [opened(path, kind) for kind in ("raw", "ema")] == [1.0, 2.0]


@pytest.mark.parametrize(
    "idle", ["n_averaged", "total_ops", "0.total_params", "criterion.weight", "loss_fn.margin", "1.num_batches_tracked"]
)
def test_what_no_forward_reads_does_not_refuse_a_file(tmp_path, idle):
    path = tmp_path / "a.pt"
    torch.save({**filled(1.0), idle: torch.tensor(3)}, path)
    assert opened(path) == 1.0


def test_a_buffer_of_an_average_that_the_network_reads_is_still_needed(tmp_path):
    tensors = filled(1.0)
    del tensors["1.running_mean"]
    with pytest.raises(InvalidInput, match=r"missing '1\.running_mean'"):
        fit(tmp_path, network(), tensors, "tiny")


@pytest.mark.parametrize(
    ("layout", "raw_first"),
    [
        (lambda raw, average: {"params": raw, "params_ema": average}, True),
        # Lightning's WeightAveraging saves the averaged weights as state_dict
        (lambda raw, average: {"state_dict": average, "current_model_state": raw, "averaging_state": {}}, True),
        (lambda raw, average: {"params_ema": average}, False),
    ],
)
def test_raw_and_averaged_weights_are_told_apart(tmp_path, capsys, layout, raw_first):
    raw, average = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    torch.save(layout(raw, average), tmp_path / "c.pt")
    assert read_weights(tmp_path / "c.pt", "ema")["w"].item() == 1
    assert read_weights(tmp_path / "c.pt")["w"].item() == (0 if raw_first else 1)
    assert ("averaged ones too" if raw_first else "it holds no others") in capsys.readouterr().err
    if raw_first:
        assert read_weights(tmp_path / "c.pt", "raw")["w"].item() == 0


def test_an_averaged_model_has_no_raw_weights(tmp_path):
    torch.save(torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 2)).state_dict(), tmp_path / "c.pt")
    with pytest.raises(InvalidInput, match="holds no raw weights"):
        read_weights(tmp_path / "c.pt", "raw")
