from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from committed import RESULTS, committed_run

import fairbench
from fairbench.data import load_dataset
from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.results import weights
from fairbench.results.folder import find_runs


def test_a_committed_model_gives_its_committed_predictions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    model = fairbench.load_model("digits/absld", seed=0)
    newest = committed_run("absld", 0, 4)  # not the later ones that `--set` put beside it
    images = torch.from_numpy(load_dataset("digits").test.images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        predicted = model(images).argmax(1).numpy()
    assert np.mean(predicted == newest.read_verdicts()["best/clean"]) >= 0.995
    assert not model.training


def test_best_and_last_of_a_seed_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    for seed in (0, 1):  # the board of version 3 keeps the weights of both
        run = committed_run("sat", seed, 3).path
        shutil.copytree(run, tmp_path / "digits" / "sat" / run.name)
    states = [
        fairbench.load_model("digits/sat", seed=seed, results=tmp_path, checkpoint=kind).state_dict()
        for seed, kind in ((0, "best"), (0, "last"), (1, "best"))
    ]
    names = [name for name in states[0] if name.endswith("weight")]
    assert not all(torch.equal(states[0][name], states[1][name]) for name in names)
    assert not all(torch.equal(states[0][name], states[2][name]) for name in names)


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_weights_of_an_older_run_do_not_stand_in_for_those_of_the_newest(checkpoint: Literal["best", "last"]) -> None:
    """Version 3 keeps the weights of seed 1; the newest run of that seed is on version 4 and has none."""
    assert committed_run("sat", 1, 3).best.exists()
    newest = committed_run("sat", 1, 4).path
    with pytest.raises(Missing, match=rf"{newest.name}/{checkpoint}.safetensors: these weights are not stored here"):
        fairbench.load_model("digits/sat", seed=1, results=RESULTS, checkpoint=checkpoint)


def test_what_has_no_weights_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="did you mean 'absld'"):
        fairbench.load_model("digits/absdl", results=RESULTS)
    with pytest.raises(InvalidInput, match=r"no finished run of seed 77; finished seeds: 0, 1, 2"):
        fairbench.load_model("digits/absld", seed=77, results=RESULTS)
    for name in ("digits", "digits/", "/absld", "digits/absld/0", "../x", "digits/.."):
        with pytest.raises(InvalidInput, match="expected SUITE/METHOD"):
            fairbench.load_model(name, results=RESULTS)
    with pytest.raises(InvalidInput, match="checkpoint is 'best' or 'last'"):
        fairbench.load_model("digits/absld", checkpoint="ema")  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "site-packages" / "fairbench" / "results" / "weights.py"))
    with pytest.raises(Missing, match=r"committed weights are in results/digits/ of a checkout of the repository"):
        fairbench.load_model("digits/absld")


def test_weights_that_are_not_there_or_not_the_runs_are_refused(tmp_path: Path) -> None:
    run = committed_run("sat", 0, 4).path
    copy = tmp_path / "digits" / "sat" / run.name
    shutil.copytree(run, copy)
    record = _record(copy)
    shutil.copy(copy / "last.safetensors", copy / "best.safetensors")
    with pytest.raises(CorruptFile, match=r"best.safetensors: content does not match the checksum"):
        fairbench.load_model("digits/sat", seed=record["seed"], results=tmp_path)
    (copy / "best.safetensors").unlink()
    with pytest.raises(Missing, match=r"run.json names the command that trains them"):
        fairbench.load_model("digits/sat", seed=record["seed"], results=tmp_path)


def _record(folder: Path) -> dict:
    (_, record), *rest = find_runs(folder.parents[2], folder.parents[1].name)
    assert rest == []
    return record
