from __future__ import annotations

import importlib
import importlib.util
import sys

import pyautoattack
import pytest
import torch
from traps import Trap

from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.models.foreign import read_weights
from fairbench.models.opening import open_model
from fairbench.models.robustbench import autoattack_alias, download_robustbench

# A ResNet-18 of RobustBench's, whose weights carry the same names as the one that pyautoattack ships.
NAME = "Addepalli2022Efficient_RN18"

EXTRA = all(importlib.util.find_spec(name) is not None for name in ("robustbench", "timm", "pkg_resources"))

real = pytest.mark.skipif(not EXTRA, reason="the extra zoo is not installed: pip install 'robust-fairbench[zoo]'")


def test_autoattack_is_pyautoattack_for_as_long_as_it_is_asked_for():
    if importlib.util.find_spec("autoattack") is not None:
        pytest.skip("a package named autoattack is installed, so that nothing stands in for it")
    with autoattack_alias():
        assert importlib.import_module("autoattack").AutoAttack is pyautoattack.AutoAttack
        assert importlib.import_module("autoattack.state").EvaluationState.__module__ == "pyautoattack.state"
    assert not {"autoattack", "autoattack.state"} & set(sys.modules)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("autoattack")


def test_an_installed_autoattack_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "autoattack.py").write_text("AutoAttack = 'their own'\n")
    try:
        with autoattack_alias():
            assert importlib.import_module("autoattack").AutoAttack == "their own"
    finally:
        sys.modules.pop("autoattack", None)


def test_an_error_inside_takes_the_names_back_as_well():
    with pytest.raises(ZeroDivisionError), autoattack_alias():
        1 / 0  # noqa: B018
    assert "autoattack" not in sys.modules


@pytest.mark.skipif(EXTRA, reason="the extra zoo is installed")
def test_without_the_extra_it_is_one_line_that_names_it():
    with pytest.raises(Missing, match=r"cannot be imported .*: pip install 'robust-fairbench\[zoo\]'") as caught:
        open_model("robustbench:Carmon2019Unlabeled")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a/b", "a/b/c/d", "../x/y", "cifar10//x"])
def test_a_name_is_one_word_or_three(name):
    with pytest.raises(InvalidInput, match="expected NAME or DATASET/THREAT/NAME"):
        open_model(f"robustbench:{name}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory's folder for CIFAR-10 models robust in Linf."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "models" / "cifar10" / "Linf"
    home.mkdir(parents=True)
    return home


@real
def test_a_file_in_the_folder_opens_by_its_name(folder):
    torch.manual_seed(0)
    trained = open_model("pyautoattack:model_test")
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in trained.state_dict().items()}}, folder / f"{NAME}.pt"
    )
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = trained(x)
        for name in (NAME, f"cifar10/Linf/{NAME}"):
            model = open_model(f"robustbench:{name}")
            assert not model.training
            torch.testing.assert_close(model(x), expected)


@real
def test_names_that_robustbench_does_not_list_and_files_that_are_not_there(folder):
    with pytest.raises(
        UnknownName, match="unknown model of RobustBench 'Carmon2019Unlabelled'; did you mean 'Carmon2019"
    ):
        open_model("robustbench:Carmon2019Unlabelled")
    with pytest.raises(UnknownName, match="unknown dataset of RobustBench 'cifar11'; did you mean 'cifar10"):
        open_model("robustbench:cifar11/Linf/Carmon2019Unlabeled")
    with pytest.raises(Missing, match=r"no file models/cifar10/Linf/Carmon2019Unlabeled\.pt; put it there, or get it"):
        open_model("robustbench:Carmon2019Unlabeled")
    with pytest.raises(Missing, match=r"Chen2020Adversarial\.pt_m0"):
        open_model("robustbench:Chen2020Adversarial")
    with pytest.raises(InvalidInput, match="open it by its timm name"):
        open_model("robustbench:Debenedetti2022Light_XCiT-S12")


@real
def test_a_planted_file_does_not_run(folder, tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "trap": Trap(tmp_path / "ran")}, folder / f"{NAME}.pt")
    with pytest.raises(CorruptFile, match="refused"):
        open_model(f"robustbench:{NAME}")
    assert not (tmp_path / "ran").exists()


@real
def test_a_file_of_another_model_is_one_line(folder):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, folder / f"{NAME}.pt")
    with pytest.raises(CorruptFile, match="is not the one RobustBench names") as caught:
        open_model(f"robustbench:{NAME}")
    assert "\n" not in str(caught.value)


@real
def test_download_leaves_a_file_that_opens(folder, monkeypatch):
    with pytest.raises(Missing):
        open_model(f"robustbench:{NAME}")
    package = sys.modules["robustbench.utils"]
    weights = open_model("pyautoattack:model_test").state_dict()
    monkeypatch.setattr(package, "download_gdrive_new", lambda _source, path: torch.save(weights, path))
    download_robustbench(NAME)
    assert set(read_weights(folder / f"{NAME}.pt")) == set(weights)
    assert open_model(f"robustbench:{NAME}").linear.weight.shape == (10, 512)
