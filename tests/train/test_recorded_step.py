"""A step on a tape, which forgets Python as a CUDA graph does, trains with the same bits as the step itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tape import Tape, recordable_kernels

from fairbench import registry
from fairbench.data import Dataset, Split
from fairbench.method.composition import resolve_method
from fairbench.method.method import Method
from fairbench.results.folder import RunFolder
from fairbench.train.acceleration import Accelerator
from fairbench.train.loop import train
from miniature import miniature_spec, untrained_network

# Every way in which a step writes: a plain attack, class-wise state, train-mode attacks, perturbed weights, averages of
# weights, class probabilities for the loader, undone steps, samples' own losses.
SOME = ["sat", "absld", "fair_ard", "trades_awp", "cfa_sat", "cfol", "ham", "fairat"]
REST = [name for name in registry.methods.names() if name not in SOME]


@pytest.fixture
def tape(monkeypatch) -> Iterator[Tape]:
    """The recorder of every step; the optimiser is fused, as on a CUDA device, and reads its rate from a tensor."""
    tape, sgd = Tape(), torch.optim.SGD
    monkeypatch.setitem(Accelerator.__init__.__kwdefaults__, "record_step", tape)
    monkeypatch.setattr(torch.optim, "SGD", lambda *args, **kwargs: sgd(*args, **{**kwargs, "fused": True}))
    with recordable_kernels(monkeypatch):
        yield tape


def trained(folder: Path, name: str, mode: Any) -> tuple[dict[str, torch.Tensor], str, dict[str, Any]]:
    """Train two epochs of six full batches and a short one: last weights, text of the history, and cost."""
    rng, labels = np.random.default_rng(0), np.arange(69) % 3
    images = rng.integers(0, 130, (69, 8, 8, 1)) + 55 * labels[:, None, None, None]
    split = Split(images.astype(np.uint8), labels)
    spec = miniature_spec(resolve_method(name), method_per_class=3)
    run = RunFolder(folder / mode)
    run.path.mkdir(parents=True)
    data, given = Dataset("generated", split, split, ("a", "b", "c")), map(untrained_network, (1, 2, 3))
    teachers = dict(zip(("teacher", "natural_teacher", "warm_start"), given, strict=True))
    cost = train(spec, run, data, acceleration=mode, **teachers)
    return load_file(run.last), run.history.read_text(), cost


def assert_trains_alike(folder: Path, name: str, tape: Tape) -> None:
    weights, history, cost = trained(folder, name, "eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, again, recorded = trained(folder, name, "step-graph")
    assert recorded["acceleration"] == "step-graph"
    assert weights.keys() == found.keys()
    assert all(torch.equal(weights[key], found[key]) for key in weights)
    assert history == again
    assert all(cost[key] == recorded[key] for key in ("forwards", "backwards", "flops"))
    assert tape.recorded == 2
    assert tape.replayed > 2


@pytest.mark.parametrize("name", SOME)
def test_recorded_steps_train_with_the_same_bits_at_the_same_cost(name, tape, tmp_path):
    assert_trains_alike(tmp_path, name, tape)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_recorded_steps_of_every_method_train_with_the_same_bits(name, tape, tmp_path):
    assert_trains_alike(tmp_path, name, tape)


def assert_falls_back(folder: Path, tape: Tape, reason: str, change: Callable[[], None] = lambda: None) -> None:
    """Train as written after one warning about the step; an attack has no graph here, so that a second follows."""
    weights, history, _ = trained(folder, "sat", "eager")
    change()
    with pytest.warns(RuntimeWarning) as caught:
        found, again, cost = trained(folder, "sat", "step-graph")
    said = [str(warning.message) for warning in caught if "goes on without" in str(warning.message)]
    assert len(said) == 2
    assert said[0].startswith("training goes on without step-graph: ")
    assert reason in said[0]
    assert said[1].startswith("training goes on without graph: ")
    assert cost["acceleration"] == "eager"
    assert all(torch.equal(weights[key], found[key]) for key in weights)
    assert history == again


def test_a_replay_that_does_something_else_is_not_used(tape, tmp_path):
    tape.broken = 1
    assert_falls_back(tmp_path, tape, "does not change the network as the step as written does")


def test_a_method_that_asks_the_device_for_a_value_runs_as_written(tape, tmp_path, monkeypatch):
    def asks(self, batch, attacked, output, plain=Method.statistics):
        return plain(self, batch, attacked, output) if float(output.loss.detach()) < 1e9 else {}

    assert_falls_back(
        tmp_path,
        tape,
        "not permitted when stream is capturing",
        lambda: monkeypatch.setattr(Method, "statistics", asks),
    )


def test_a_method_that_counts_its_steps_runs_as_written_and_counts_each_once(tape, tmp_path, monkeypatch):
    counted = []

    def counts(self, closure, plain=Method.step):
        self.steps = getattr(self, "steps", 0) + 1
        counted.append(self.steps)
        return plain(self, closure)

    assert_falls_back(tmp_path, tape, "replaced in every step", lambda: monkeypatch.setattr(Method, "step", counts))
    assert sorted(set(counted)) == list(range(1, 15))
    assert counted[-1] == 14


def test_a_method_that_keeps_a_batch_in_a_dictionary_runs_as_written(tape, tmp_path, monkeypatch):
    def keeps(self, batch, attacked, output, plain=Method.statistics):
        vars(self).setdefault("memory", {})["logits"] = output.logits_adv.detach()
        return plain(self, batch, attacked, output)

    assert_falls_back(
        tmp_path, tape, "replaced in every step", lambda: monkeypatch.setattr(Method, "statistics", keeps)
    )


def test_state_replaced_between_two_steps_is_noticed(tape, tmp_path, monkeypatch):
    """A policy that replaces a tensor between batches: `sampling` is called there."""

    def replaces(self):
        self.now = torch.zeros(2)

    assert_falls_back(
        tmp_path, tape, "replaced within an epoch", lambda: monkeypatch.setattr(Method, "sampling", replaces)
    )
