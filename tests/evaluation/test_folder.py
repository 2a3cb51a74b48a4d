from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fairbench import cli, registry
from fairbench.attacks import Ball, resolve
from fairbench.data.dataset import Split
from fairbench.errors import FairbenchError
from fairbench.evaluation.batches import BatchVerdicts
from fairbench.evaluation.folder import evaluation_settings
from fairbench.evaluation.journal import Journal
from fairbench.models import build_model, load_checkpoint, save_checkpoint
from fairbench.registration import register_attack
from fairbench.run.audit import audit_model

ENSEMBLE = "autoattack-fast:queries=20,steps=3"
pytestmark = pytest.mark.usefixtures("checkpoint_here")

KEPT = {"report.json", "verdicts.npz", "settings.json"}


def _audit(out: str | None = "out", **changes: Any) -> Any:
    settings: dict[str, Any] = {"attacks": ["clean", "pgd-3:rel_step=0.5"], "eps": 0.02, "batch_size": 50}
    return audit_model("net.safetensors", "npz:test.npz", out=out and Path(out), **{**settings, **changes})


def _files(folder: str = "out") -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path(folder).glob("[!.]*")}


def test_a_finished_evaluation_is_read_back_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = {"attacks": [ENSEMBLE, "clean"], "eps": 0.1}
    first = _audit(**how)
    before = _files()
    assert set(before) == KEPT
    monkeypatch.setattr("fairbench.run.audit.evaluate", None)
    capsys.readouterr()
    again = _audit(**how)
    assert "out: these settings were evaluated before; read back" in capsys.readouterr().err
    assert _files() == before
    assert again.as_dict() == first.as_dict()
    assert again.flags == first.flags
    assert list(again.verdicts) == list(first.verdicts)
    assert again.verdicts.first_break().tolist() == first.verdicts.first_break().tolist()
    assert any("#" in text for text in again.verdicts.first_break())


def _weights() -> dict[str, Any]:
    model, about = load_checkpoint("net.safetensors")
    next(model.parameters()).data[0] += 0.01
    save_checkpoint("net.safetensors", model, about.spec, about.num_classes, about.shape)
    return {}


def _data() -> dict[str, Any]:
    with np.load("test.npz") as arrays:
        changed = {name: arrays[name].copy() for name in arrays.files}
    changed["images"][-1, 0, 0, 0] ^= 1
    np.savez("test.npz", **changed)
    return {}


@pytest.mark.parametrize(
    "change",
    [
        _weights,
        _data,
        lambda: {"attacks": ["clean", "pgd-3:rel_step=0.6"]},
        lambda: {"attacks": ["clean", "pgd-3:rel_step=0.5", "fgsm"]},
        lambda: {"eps": 0.03},
        lambda: {"norm": "L2"},
        lambda: {"seed": 1},
        lambda: {"batch_size": 60},
    ],
    ids=["weights", "data", "argument", "attacks", "eps", "norm", "seed", "batch"],
)
@pytest.mark.parametrize("stopped", [False, True])
def test_what_other_settings_left_is_not_used(change: Callable[[], dict[str, Any]], stopped: bool) -> None:
    if stopped:
        _stop_after(3)
    else:
        _audit(flags=False)
    changes = change()
    expected = _audit(out=None, flags=False, **changes)
    found = _audit(flags=False, **changes)
    assert found.as_dict() == expected.as_dict()
    assert all(np.array_equal(found.verdicts[text], expected.verdicts[text]) for text in expected.verdicts)
    assert set(_files()) == KEPT
    assert json.loads(Path("out/report.json").read_text()) == expected.as_dict()


def test_an_evaluation_by_another_engine_is_made_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fairbench.evaluation.folder.default_engine", lambda device: "torch")
    _stop_after(2)
    monkeypatch.setattr("fairbench.evaluation.folder.default_engine", lambda device: "c")
    capsys.readouterr()
    _audit(flags=False)
    assert "goes on" not in capsys.readouterr().err
    assert json.loads(Path("out/settings.json").read_text())["settings"]["engine"] == "c"


class _Stopped(BaseException):
    """Not an error."""


def _stop_after(batches: int, **changes: Any) -> None:
    """Stop an evaluation once so many batches were written, as Ctrl-C would."""
    patch, write = pytest.MonkeyPatch(), Journal.append
    left = [batches]

    def append(journal: Any, batch: BatchVerdicts) -> None:
        write(journal, batch)
        left[0] -= 1
        if not left[0]:
            raise _Stopped

    with patch.context() as inside:
        inside.setattr("fairbench.evaluation.journal.Journal.append", append)
        with pytest.raises(_Stopped):
            _audit(flags=False, **changes)


def test_other_code_of_the_users_is_another_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("losses_here.py").write_text("def one(logits, y):\n    return logits.sum(1)\n")
    chosen = ["pgd-3:rel_step=0.5,loss=losses_here:one"]
    try:
        _audit(attacks=chosen, flags=False)
        before = _files()
        Path("losses_here.py").write_text("def one(logits, y):\n    return -logits.sum(1)\n")
        _audit(attacks=chosen, flags=False)
    finally:
        sys.modules.pop("losses_here", None)
    assert _files()["settings.json"] != before["settings.json"]


@pytest.mark.parametrize("name", ["report.json", "verdicts.npz", "settings.json"])
def test_a_file_that_was_changed_is_made_again(name: str) -> None:
    _audit(flags=False)
    whole = {file: content for file, (content, _) in _files().items()}
    for damage in (lambda path: path.write_bytes(path.read_bytes()[:-9] + b"}"), Path.unlink):
        damage(Path("out", name))
        _audit(flags=False)
        assert {file: content for file, (content, _) in _files().items()} == whole


def test_an_evaluation_without_flags_is_not_one_with_flags_but_what_was_kept_is_gone_on_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _audit(flags=False).flags == {}
    assert _audit().flags
    assert _audit(flags=False).flags == {}
    _stop_after(2, seed=5)
    capsys.readouterr()
    assert _audit(seed=5).flags
    assert "out: resumes after 100 stored verdicts" in capsys.readouterr().err


def test_settings_name_what_verdicts_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    network, split = (
        load_checkpoint("net.safetensors")[0],
        Split(np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1, np.int64)),
    )
    chosen = [resolve("pgd-20", Ball())]

    def about() -> dict[str, Any]:
        return evaluation_settings(network, split, ("a",), chosen, device="cpu", seed=0)

    first = about()
    assert json.loads(json.dumps(first)) == first == about()
    assert (first["device"], first["attacks"], first["seed"], first["files"]) == ("cpu", ["pgd-20"], 0, [])
    monkeypatch.setattr(torch, "__version__", "99")
    assert about() == {**first, "torch": "99"}
    # the same weights in another architecture
    other = nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), nn.Sequential(nn.Tanh(), nn.Linear(2, 2))
    other[1].load_state_dict(other[0].state_dict())
    one, two = (evaluation_settings(net, split, ("a",), chosen, device="cpu") for net in other)
    assert one["weights"] == two["weights"]
    assert one["architecture"] != two["architecture"]


def test_the_code_of_an_attack_and_the_files_it_is_given_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_loaded", "_details", "_source"):
        monkeypatch.setattr(registry.attacks, table, dict(getattr(registry.attacks, table)))

    @register_attack("mine-for-a-test", summary="in this very file")
    def mine(model: Any, x: Any, y: Any, *, eps: float, norm: str, rng: Any, given: str = "") -> Any:
        return x

    network, split = (
        load_checkpoint("net.safetensors")[0],
        Split(np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1, np.int64)),
    )
    attack = resolve("mine-for-a-test:given=net.safetensors", Ball())
    files = evaluation_settings(network, split, ("a",), [attack], device="cpu")["files"]
    assert sorted(line.split()[0] for line in files) == ["net.safetensors", "test_folder.py"]


@pytest.mark.parametrize("written", ["other.safetensors", "file:other.safetensors", "~/other.safetensors"])
def test_verdicts_of_another_surrogate_are_not_used(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    spec, shape = "small-cnn:width=8", (1, 8, 8)
    chosen, found = [f"transfer-2:surrogate={written},rel_step=0.75"], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_checkpoint("other.safetensors", build_model(spec, num_classes=4, shape=shape), spec, 4, shape)
        stored, fresh = (_audit(out, attacks=chosen, flags=False, eps=0.2) for out in ("out", None))
        assert np.array_equal(stored.verdicts[chosen[0]], fresh.verdicts[chosen[0]])
        found.append(json.loads(Path("out", "settings.json").read_text())["settings"]["files"])
    assert [line.split()[0] for line in found[0]] == ["other.safetensors"]
    assert found[0] != found[1]


class _Command:
    """`fairbench evaluate`, what `_audit(folder, attacks=attacks, flags=False)` does, in a forked child."""

    def __init__(self, attacks: Sequence[str], folder: str, *options: str) -> None:
        words = ["--dataset", "npz:test.npz", "--attacks", ",".join(attacks), "--eps", "0.02", "--no-flags"]
        self.pid = os.fork()
        if self.pid == 0:
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
            sys.argv = ["fairbench", "evaluate", "net.safetensors", *words, "--out", folder, *options]
            code: Any = 1
            try:
                cli.main()
            except SystemExit as error:
                code = error.code
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so while the child works."""
        while not condition():
            assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), Path("stderr").read_text()
            time.sleep(0.002)

    def end(self, with_signal: int = 0) -> tuple[int, str, str]:
        """Send a signal and wait; return the exit code, negative for the signal that killed it, stdout and stderr."""
        os.kill(self.pid, with_signal)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code, Path("stdout").read_text(), Path("stderr").read_text()


@pytest.mark.usefixtures("one_thread")
def test_two_at_once_do_the_work_once(capsys: pytest.CaptureFixture[str]) -> None:
    attacks = ["clean", "pgd-200"]
    child = _Command(attacks, "out", "--batch-size", "50")
    child.wait_until(Path("out", "partial").exists)
    found = _audit(attacks=attacks, flags=False)
    assert child.end()[0] == 0
    shown = capsys.readouterr().err
    assert "waiting 0/1 another process works in this folder" in shown
    assert "out: these settings were evaluated before; read back" in shown
    assert json.loads(Path("out/report.json").read_text()) == found.as_dict()


@pytest.mark.usefixtures("one_thread")
def test_an_evaluation_that_is_interrupted_and_killed_ends_as_if_nothing_had_been() -> None:
    attacks = ["pgd-25", "cw-25", "autoattack-fast:queries=5,steps=2"]

    def start_and_wait_for(journal: str, batches: int) -> _Command:
        path, child = Path("disturbed", "partial", journal), _Command(attacks, "disturbed", "--batch-size", "4")
        child.wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") > batches)
        return child

    expected = _audit("undisturbed", attacks=attacks, batch_size=4, flags=False)
    code, _, log = start_and_wait_for("0.jsonl", 3).end(signal.SIGINT)
    assert code == 130
    assert log.splitlines()[-1].startswith("fairbench: stopped; finished work is kept")
    code, _, _ = start_and_wait_for("1.jsonl", 6).end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert {path.name for path in Path("disturbed").glob("[!.]*")} == {"partial"}
    kept = [path.read_bytes().count(b"\n") - 1 for path in sorted(Path("disturbed", "partial").iterdir())]
    assert kept[0] == 30
    assert 6 <= kept[1] < 30
    code, found, log = _Command(attacks, "disturbed", "--batch-size", "4", "--json").end()
    assert code == 0, log
    assert f"disturbed: resumes after {4 * sum(kept)} stored verdicts" in log
    assert json.loads(found) == expected.as_dict()
    assert {name: content for name, (content, _) in _files("disturbed").items()} == {
        name: content for name, (content, _) in _files("undisturbed").items()
    }


def test_without_a_folder_nothing_is_kept_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise _Stopped

    monkeypatch.setattr("fairbench.run.audit.audit_model", stopped)
    with pytest.raises(FairbenchError, match=r"^stopped; nothing is kept without --out$") as caught:
        cli.evaluate.evaluate_command("net.safetensors", "npz:test.npz")
    assert caught.value.exit_code == 130
    with pytest.raises(_Stopped):
        cli.evaluate.evaluate_command("net.safetensors", "npz:test.npz", out=Path("out"))
