from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from traps import Trap

from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.models.architectures import build_model
from fairbench.models.checkpoint import save_checkpoint, weights_hash
from fairbench.models.opening import open_model

SHAPE = (1, 8, 8)
ARCH = {"arch": "small-cnn:width=2", "num_classes": 3, "shape": SHAPE}


def network():
    return build_model("small-cnn:width=2", num_classes=3, shape=SHAPE)


@pytest.mark.parametrize("prefix", ["", "file:"])
def test_our_own_checkpoint_opens_with_its_name_alone(tmp_path, prefix):
    model = network()
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, model, "small-cnn:width=2", num_classes=3, shape=SHAPE)
    opened = open_model(f"{prefix}{path}")
    assert weights_hash(opened) == weights_hash(model)
    assert not opened.training
    assert weights_hash(open_model(Path(path), **ARCH)) == weights_hash(model)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"net": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
        lambda state: {name: value.half() for name, value in state.items()},
    ],
)
def test_a_state_dict_opens_however_training_scripts_wrap_it(tmp_path, suffix, wrap):
    model = network().eval()
    torch.save(wrap(model.state_dict()), tmp_path / f"a{suffix}")
    opened = open_model(tmp_path / f"a{suffix}", **ARCH)
    x = torch.rand(4, *SHAPE)
    assert torch.allclose(opened(x), model(x), atol=1e-3)
    assert not opened.training


def test_normalisation_is_put_before_foreign_weights(tmp_path):
    model = network()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    x = torch.rand(2, *SHAPE)
    opened = open_model(tmp_path / "a.pt", **ARCH, mean=(0.5,), std=(0.25,))
    assert torch.allclose(opened(x), model((x - 0.5) / 0.25))


def test_safetensors_of_others_open_with_an_architecture(tmp_path):
    model = network()
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    assert weights_hash(open_model(tmp_path / "a.safetensors", **ARCH)) == weights_hash(model)
    with pytest.raises(CorruptFile, match="holds no fairbench metadata"):
        open_model(tmp_path / "a.safetensors")


@pytest.mark.parametrize("lacking", ["arch", "num_classes", "shape"])
def test_a_state_dict_needs_its_architecture(tmp_path, lacking):
    torch.save(network().state_dict(), tmp_path / "a.pt")
    also = {"arch": r"\)$", "num_classes": r"\) and num_classes$", "shape": r"\) and shape$"}[lacking]
    with pytest.raises(InvalidInput, match=rf"says nothing about its architecture; give arch \(--arch NAME.*{also}"):
        open_model(tmp_path / "a.pt", **{**ARCH, lacking: None})


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, zipped):
    mark = tmp_path / "ran"
    torch.save(
        {"state_dict": network().state_dict(), "trap": Trap(mark)},
        tmp_path / "a.pt",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(CorruptFile, match="refused: it is damaged, or more than plain weights") as caught:
        open_model(tmp_path / "a.pt", **ARCH)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert mark.exists()  # the trap works when weights_only is off


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(network(), tmp_path / "a.pt")
    with pytest.raises(CorruptFile, match=r"save model\.state_dict\(\)"):
        open_model(tmp_path / "a.pt", **ARCH)


def test_a_truncated_or_foreign_file_is_one_line(tmp_path):
    file = tmp_path / "a.pt"
    torch.save(network().state_dict(), file)
    whole = file.read_bytes()
    for content in [whole[:length] for length in range(0, len(whole), 499)] + [b"hello", bytes(100), b"\x80\x02."]:
        file.write_bytes(content)
        with pytest.raises(CorruptFile) as caught:
            open_model(file, **ARCH)
        assert str(caught.value).startswith(f"{file}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [[1, 2], {}, {"state_dict": 3}, {"a": 1}, {1: torch.zeros(1)}, torch.ones(1)],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CorruptFile, match="holds no state dict"):
        open_model(tmp_path / "a.pt", **ARCH)


def test_a_sparse_weight_is_refused(tmp_path):
    torch.save({"a": torch.eye(2).to_sparse()}, tmp_path / "a.pt")
    with pytest.raises(CorruptFile, match=r"more than plain weights; .*_rebuild_sparse_tensor\)$"):
        open_model(tmp_path / "a.pt", **ARCH)


def test_weights_of_another_architecture_are_named(tmp_path):
    torch.save(network().state_dict(), tmp_path / "a.pt")
    with pytest.raises(
        CorruptFile, match=r"weight '0\.weight' has shape \(2, 1, 3, 3\), but model 'small-cnn:width=3' needs"
    ):
        open_model(tmp_path / "a.pt", **{**ARCH, "arch": "small-cnn:width=3"})


def test_a_view_that_claims_a_gigantic_tensor_is_refused_before_it_is_copied(tmp_path):
    state = network().state_dict()
    state["0.bias"] = torch.zeros(1).expand(10**12)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CorruptFile, match=r"refused: .* \(a tensor that is larger than its storage\)$"):
        open_model(tmp_path / "a.pt", **ARCH)


def test_opening_leaves_the_random_state_alone(tmp_path):
    torch.save(network().state_dict(), tmp_path / "a.pt")
    before = torch.get_rng_state()
    open_model(tmp_path / "a.pt", **ARCH)
    assert torch.equal(torch.get_rng_state(), before)


def test_names_that_lead_nowhere_are_one_line(tmp_path):
    with pytest.raises(Missing, match="no such file"):
        open_model(tmp_path / "a.pt")
    with pytest.raises(Missing, match="is a folder, not a checkpoint"):
        open_model(tmp_path)
    with pytest.raises(UnknownName, match="unknown model source 'fiel'; did you mean 'file'"):
        open_model("fiel:a.pt")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InvalidInput, match=r"a checkpoint ends in one of \.safetensors"):
        open_model(tmp_path / "a.txt")


def test_a_path_may_hold_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint("run:1.safetensors", network(), "small-cnn:width=2", num_classes=3, shape=SHAPE)
    assert not open_model("run:1.safetensors").training


def test_a_module_is_asked_for_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("zoo_test_nets.py").write_text(
        "from torch import nn\n"
        "def linear(num_classes, shape):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes))\n"
    )
    torch.manual_seed(0)
    first = open_model("zoo_test_nets:linear", num_classes=3, shape=SHAPE)
    assert not first.training
    assert first(torch.zeros(2, *SHAPE)).shape == (2, 3)
    scaled = open_model("zoo_test_nets:linear", num_classes=3, shape=SHAPE, mean=[0.5], std=[0.5])
    assert torch.equal(scaled(torch.full((1, *SHAPE), 0.5)), scaled.network(torch.zeros(1, *SHAPE)))
    with pytest.raises(UnknownName, match="'linea'; did you mean 'linear'"):
        open_model("zoo_test_nets:linea", num_classes=3, shape=SHAPE)
    with pytest.raises(InvalidInput, match="num_classes and shape; give both"):
        open_model("zoo_test_nets:linear")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("robustbnch:Carmon2019Unlabeled", "unknown model source 'robustbnch'; did you mean 'robustbench'"),
        ("torchvison:resnet18", "unknown model source 'torchvison'; did you mean 'torchvision'"),
        ("torchvision:resnet81", "unknown model of torchvision 'resnet81'; did you mean 'resnet18'"),
        ("pyautoattack:model_tset", "unknown model of pyautoattack 'model_tset'; did you mean 'model_test'"),
    ],
)
def test_a_misspelt_name_is_met_with_the_nearest(source, message):
    with pytest.raises(UnknownName) as caught:
        open_model(source)
    assert message in str(caught.value)


def test_what_a_source_brings_along_is_not_given_twice(tmp_path):
    with pytest.raises(InvalidInput, match="brings its own architecture"):
        open_model("pyautoattack:model_test", arch="resnet18")
    with pytest.raises(InvalidInput, match="brings its own normalisation"):
        open_model("pyautoattack:model_test", mean=[0.5] * 3, std=[0.5] * 3)
    save_checkpoint(tmp_path / "a.safetensors", network(), "small-cnn:width=2", num_classes=3, shape=SHAPE)
    with pytest.raises(InvalidInput, match="brings its own normalisation"):
        open_model(tmp_path / "a.safetensors", mean=[0.5], std=[0.5])


def test_the_resnet18_that_pyautoattack_ships_opens_by_its_name():
    model = open_model("pyautoattack:model_test")
    assert not model.training
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).isfinite().all()
