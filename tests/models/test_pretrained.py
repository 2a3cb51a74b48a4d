from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from traps import Trap

from fairbench.errors import CorruptFile, Missing, UnknownName
from fairbench.models.opening import open_model

NAME = "shufflenet_v2_x0_5"

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed: pip install 'robust-fairbench[zoo]'"
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch.hub's and of the Hugging Face hub's."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def torchvision_file(cache, name=NAME):
    return cache / torchvision.models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]


def test_a_torchvision_model_opens_from_the_cache_with_its_normalisation(cache):
    torch.manual_seed(0)
    plain = torchvision.models.get_model(NAME, weights=None).eval()
    torch.save(plain.state_dict(), torchvision_file(cache))
    model = open_model(f"torchvision:{NAME}")
    assert not model.training
    x = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain((x - mean[:, None, None]) / std[:, None, None]))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_that_rescale_their_input_with_torchvisions_weights_do_so_here(cache, name):
    torch.manual_seed(0)
    plain = torchvision.models.get_model(name, weights=None, init_weights=False, transform_input=True).eval()
    torch.save(plain.state_dict(), torchvision_file(cache, name))
    model = open_model(f"torchvision:{name}")
    x = torch.rand(1, 3, 96, 96)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        found, expected = model(x), plain((x - mean[:, None, None]) / std[:, None, None])
        plain.transform_input = False
        assert not torch.allclose(plain((x - mean[:, None, None]) / std[:, None, None]), expected)
    torch.testing.assert_close(found, expected)


def test_weights_that_are_not_here_are_one_line_with_the_command_that_gets_them(cache):
    with pytest.raises(Missing) as caught:
        open_model(f"torchvision:{NAME}")
    assert str(caught.value).startswith(f"torchvision:{NAME}: no file {torchvision_file(cache)}; with a network")
    assert f"torchvision.models.get_model('{NAME}', weights='DEFAULT')" in str(caught.value)


def test_a_planted_file_in_the_cache_does_not_run(cache, tmp_path):
    torch.save({"a": torch.zeros(1), "trap": Trap(tmp_path / "ran")}, torchvision_file(cache))
    with pytest.raises(CorruptFile, match="refused"):
        open_model(f"torchvision:{NAME}")
    assert not (tmp_path / "ran").exists()


def test_a_model_of_another_task_is_no_classifier(cache):
    with pytest.raises(UnknownName, match="unknown model of torchvision 'fcn_resnet50'"):
        open_model("torchvision:fcn_resnet50")


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_timm_that_is_not_installed_is_one_line():
    with pytest.raises(Missing, match=r"timm:resnet18: needs timm: pip install 'robust-fairbench\[zoo\]'"):
        open_model("timm:resnet18")


@needs_timm
def test_a_timm_model_opens_from_the_cache_with_its_normalisation(cache):
    timm = _timm()
    name = "mobilenetv3_small_050"
    torch.manual_seed(0)
    plain = timm.create_model(name).eval()
    config = plain.pretrained_cfg
    torch.save(plain.state_dict(), cache / "planted.pth")
    model = _open_cached(name, cache / "planted.pth")
    x = torch.rand(1, *config["input_size"])
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain((x - mean) / std))


@needs_timm
def test_timm_weights_that_are_not_here_and_names_that_are_none(cache):
    _timm()
    with pytest.raises(Missing, match=r"timm\.create_model\('mobilenetv3_small_050', pretrained=True\)"):
        open_model("timm:mobilenetv3_small_050")
    with pytest.raises(UnknownName, match="did you mean 'resnet18'"):
        open_model("timm:resnet81")


@needs_timm
def test_a_planted_file_does_not_run_in_timm_either(cache, tmp_path):
    _timm()
    torch.save({"a": torch.zeros(1), "trap": Trap(tmp_path / "ran")}, cache / "planted.pth")
    with pytest.raises(CorruptFile, match="refused"):
        _open_cached("mobilenetv3_small_050", cache / "planted.pth")
    assert not (tmp_path / "ran").exists()


def _timm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("timm")


def _open_cached(name, file: Path):
    """Open a model while the hub's client reports `file` as cached."""
    import huggingface_hub

    patch = pytest.MonkeyPatch()
    patch.setattr(huggingface_hub, "try_to_load_from_cache", lambda _repository, _name: str(file))
    try:
        return open_model(f"timm:{name}")
    finally:
        patch.undo()
