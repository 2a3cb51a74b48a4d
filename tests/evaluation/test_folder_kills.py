"""The folder of an evaluation whose process is killed at its worst moments, with and without another that waits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from fairbench.errors import InvalidInput, Missing
from fairbench.evaluation import folder as folders
from fairbench.evaluation.batches import BatchVerdicts
from fairbench.evaluation.journal import Journal
from fairbench.files import locked
from fairbench.gate.entry import from_saved
from fairbench.models import load_checkpoint, save_checkpoint
from fairbench.run.audit import audit_model
from mortal import die_at_rename

pytestmark = pytest.mark.usefixtures("one_thread", "checkpoint_here")

RENAMES = 3  # report.json, verdicts.npz and settings.json
SECONDS = 100


def _audit(out: str, model: str = "net.safetensors", eps: float = 0.02) -> Any:
    how: dict[str, Any] = {"attacks": ["clean", "fgsm"], "eps": eps, "batch_size": 10, "flags": False}
    return audit_model(model, "npz:test.npz", out=Path(out), **how)


def _killed(work: Callable[[], object]) -> Callable[[], int]:
    """Start work in a child; returns a function that waits for its end, negative for the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
        finally:
            os._exit(0)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _wait_for(path: str) -> None:
    end = time.monotonic() + SECONDS
    while not Path(path).exists():
        assert time.monotonic() < end, path
        time.sleep(0.005)


def _files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("[!.]*")}


def test_a_kill_at_any_rename_loses_nothing_and_the_next_ends_with_the_same_bits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = _audit("whole")
    for moment in range(2 * RENAMES + 1):
        out = f"out-{moment}"

        def work(moment: int = moment, out: str = out) -> None:
            die_at_rename(moment)
            _audit(out)

        assert _killed(work)() == (-signal.SIGKILL if moment < 2 * RENAMES else 0)
        capsys.readouterr()
        assert _audit(out).as_dict() == expected.as_dict()
        said = capsys.readouterr().err
        finished = moment >= 2 * RENAMES - 1  # the last rename completes the folder
        assert ("read back" if finished else "resumes after 240 stored verdicts") in said
        assert _files(out) == _files("whole")
        assert [path.name for path in Path(out).glob(".*")] == [".settings.json.lock"]


def test_the_gate_never_reads_the_report_of_one_evaluation_with_the_verdicts_of_another() -> None:
    network, about = load_checkpoint(Path("net.safetensors"))
    with torch.no_grad():
        list(network.parameters())[-1].copy_(torch.tensor([100.0, 0, 0, 0]))
    save_checkpoint(Path("other.safetensors"), network, about.spec, about.num_classes, about.shape)
    ours: dict[str, Any] = {"eps": 0.02}
    theirs: dict[str, Any] = {"eps": 0.1, "model": "other.safetensors"}
    right = {}
    for how in (ours, theirs):
        _audit("whole", **how)
        right[how["eps"]] = from_saved(Path("whole"), "union").correct.tolist()
    assert right[0.02] != right[0.1]
    for moment in range(2 * RENAMES):
        out = f"out-{moment}"
        _audit(out, **ours)

        def work(moment: int = moment, out: str = out) -> None:
            die_at_rename(moment)
            _audit(out, **theirs)

        assert _killed(work)() == -signal.SIGKILL
        with suppress(Missing):
            found = from_saved(Path(out), "union")
            assert found.threat is not None
            assert found.correct.tolist() == right[found.threat[1]]


def test_the_verdicts_of_an_unfinished_evaluation_under_other_settings_stay() -> None:
    _audit("out")
    (Path("out") / "partial").mkdir()
    other = Journal(Path("out", "partial", "0.jsonl"), {"eps": 0.3})
    other.append(BatchVerdicts([0], {}))
    _audit("out")
    assert len(Journal(other.path, {"eps": 0.3}).batches) == 1


def test_who_waits_goes_on_where_the_one_before_was_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, append = _audit("whole"), Journal.append

    def dies_once_another_waits(journal: Journal, batch: Any) -> None:
        append(journal, batch)
        if len(journal.path.read_bytes().splitlines()) == 1 + 5:
            _wait_for("waiting")
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        Journal.append = dies_once_another_waits  # type: ignore[method-assign]
        _audit("out")

    end = _killed(work)
    _wait_for("out/partial/0.jsonl")

    def noted(path: Path, waiting: Callable[[], None]) -> Any:
        def waits() -> None:
            Path("waiting").touch()
            waiting()

        return locked(path, waits)

    monkeypatch.setattr(folders, "locked", noted)
    capsys.readouterr()
    found = _audit("out")
    assert end() == -signal.SIGKILL
    said = capsys.readouterr().err
    assert "waiting 0/1 another process works in this folder" in said
    assert "out: resumes after 50 stored verdicts" in said
    assert found.as_dict() == expected.as_dict()
    assert _files("out") == _files("whole")


def test_a_linked_folder_of_partial_verdicts_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "partial").symlink_to(elsewhere)
    with pytest.raises(InvalidInput, match="out/partial: is a link, and files are not written through links"):
        _audit("out")
    assert list(elsewhere.iterdir()) == []
