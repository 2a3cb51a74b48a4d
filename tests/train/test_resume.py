from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_runs import history, untrained

from fairbench.data import load_dataset
from fairbench.errors import CorruptFile
from fairbench.results.folder import RunFolder
from fairbench.train.loop import train
from fairbench.train.resume import _digest


class _Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("method", "stop_after", "precision"),
    [
        *[("absld", epoch, "float32") for epoch in (1, 2, 3)],
        ("absld", 2, "float64"),
        ("cfol", 1, "float32"),  # what it draws depends on the scores so far
    ],
)
def test_a_stopped_training_goes_on_to_the_same_bits(spec_of, tmp_path, method, stop_after, precision):
    spec = spec_of(method, recipe__epochs=3, recipe__precision=precision)
    dataset, teacher = load_dataset(spec.data.name), untrained(spec)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")

    def stop(_stage, done, _total, _note):
        if done == stop_after:
            raise _Stop

    with pytest.raises(_Stop):
        train(spec, parts, dataset, teacher=teacher, progress=stop)
    assert not parts.last.exists()
    assert json.loads(parts.status.read_text())["epoch"] == stop_after
    epochs = []
    cost = train(spec, parts, dataset, teacher=teacher, progress=lambda _s, done, _t, _n: epochs.append(done))
    assert epochs == list(range(stop_after + 1, 4))
    undisturbed = train(spec, whole, dataset, teacher=teacher)
    for name in ("best", "last", "history"):
        assert getattr(parts, name).read_bytes() == getattr(whole, name).read_bytes(), name
    del cost["train_seconds"], undisturbed["train_seconds"]
    assert cost == undisturbed


@pytest.mark.parametrize("keep", [0, 7, 0.5, -1])
def test_a_truncated_resume_is_one_line_that_names_the_file(stopped, keep):
    spec, dataset, folder = stopped
    whole = folder.resume.read_bytes()
    folder.resume.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(CorruptFile, match=r"resume\.safetensors: cannot be resumed from: ") as caught:
        train(spec, folder, dataset)
    assert "\n" not in str(caught.value)
    folder.resume.unlink()
    train(spec, folder, dataset)
    assert len(history(folder)) == 2


def _changed(name: str, value: object) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda status, _tensors: status.update({name: value})


def _reshaped(_status: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["model/0.weight"] = torch.zeros(2)


def _renamed(_status: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["optimizer/x/momentum_buffer"] = torch.zeros(2)


HOSTILE = {
    "no epoch": lambda status, _: status.pop("epoch"),
    "epoch": _changed("epoch", -1),
    "epochs without history": _changed("epoch", 10**9),
    "words": _changed("epoch", "many"),
    "score": _changed("best_score", [1]),
    "cost": _changed("cost", {"forwards": 1}),
    "costs": _changed("cost", 7),
    "shape": _reshaped,
    "slot": _renamed,
    "no weights": lambda _, tensors: tensors.clear(),
}


@pytest.fixture
def stopped(spec_of, tmp_path):
    """A training that stopped after its first epoch: its specification, dataset and folder."""
    spec, folder = spec_of(), RunFolder(tmp_path / "run")
    dataset = load_dataset(spec.data.name)

    def stop(*_):
        raise _Stop

    with pytest.raises(_Stop):
        train(spec, folder, dataset, progress=stop)
    return spec, dataset, folder


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_state_of_a_stranger_with_a_right_checksum_is_one_line(stopped, kind):
    spec, dataset, folder = stopped
    with safe_open(folder.resume, framework="pt") as archive:
        metadata = archive.metadata()
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    status = json.loads(metadata["status"])
    HOSTILE[kind](status, tensors)
    metadata = {"status": json.dumps(status), "history": metadata["history"]}
    metadata["digest"] = _digest(tensors, metadata)
    save_file(tensors, folder.resume, metadata=metadata)
    with pytest.raises(CorruptFile, match=r"resume\.safetensors: cannot be resumed from: ") as caught:
        train(spec, folder, dataset)
    assert "\n" not in str(caught.value)


def test_a_state_with_a_key_that_is_given_twice_is_one_line(stopped):
    spec, dataset, folder = stopped
    with safe_open(folder.resume, framework="pt") as archive:
        metadata = archive.metadata()
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    status = metadata["status"].replace('"best_score"', '"best_score": 1.0, "best_score"')
    metadata = {"status": status, "history": metadata["history"]}
    metadata["digest"] = _digest(tensors, metadata)
    save_file(tensors, folder.resume, metadata=metadata)
    with pytest.raises(CorruptFile, match=r"resume\.safetensors: .* the key 'best_score' is given twice"):
        train(spec, folder, dataset)


def _swapped(_metadata: dict[str, str], tensors: dict[str, Any]) -> None:
    one, two = sorted(name for name in tensors if name.startswith("optimizer/"))[:2]
    tensors[one], tensors[two] = tensors[two], tensors[one]


def _renamed_whole(_metadata: dict[str, str], tensors: dict[str, Any]) -> None:
    tensors["z"] = tensors.pop(max(tensors))  # still the last, so that only a name differs


def _one_bit(_metadata: dict[str, str], tensors: dict[str, Any]) -> None:
    tensors["model/0.weight"].view(torch.uint8).view(-1)[0] ^= 1


def _better_score(metadata: dict[str, str], _tensors: dict[str, Any]) -> None:
    metadata["status"] = json.dumps({**json.loads(metadata["status"]), "best_score": 0.99})


def _history(metadata: dict[str, str], _tensors: dict[str, Any]) -> None:
    (row,) = json.loads(metadata["history"])
    metadata["history"] = json.dumps([{**row, "loss": 0.0}])


def _undigested(metadata: dict[str, str], _tensors: dict[str, Any]) -> None:
    del metadata["digest"]


@pytest.mark.parametrize("change", [_swapped, _renamed_whole, _one_bit, _better_score, _history, _undigested])
def test_a_state_that_changed_after_it_was_stored_is_one_line(stopped, change):
    """A state that could be resumed from, were it not for its checksum."""
    spec, dataset, folder = stopped
    with safe_open(folder.resume, framework="pt") as archive:
        metadata = archive.metadata()
        tensors = {name: archive.get_tensor(name).clone() for name in archive.keys()}  # noqa: SIM118
    change(metadata, tensors)
    save_file(tensors, folder.resume, metadata=metadata)
    reason = "'digest'" if change is _undigested else "its content does not match its checksum"
    with pytest.raises(CorruptFile, match=rf"resume\.safetensors: cannot be resumed from: {reason}"):
        train(spec, folder, dataset)


@pytest.mark.parametrize("odd", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_a_pipe_a_device_and_a_folder_are_no_state(stopped, odd):
    spec, dataset, folder = stopped
    folder.resume.unlink()
    odd(folder.resume)
    with pytest.raises(CorruptFile, match=r"resume\.safetensors: cannot be resumed from: "):
        train(spec, folder, dataset)
