"""A disk that is full and a folder that is read-only: one line, and what was there before is untouched."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fairbench.leaderboard import builder
from fairbench.run.pipeline import execute_run
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite

NOBODY = 65534


def _other(whole: Any, **changes: Any) -> Any:
    (spec,) = plan(load_suite(str(whole.suite)).override(changes))
    return spec


def _everything(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")}


@pytest.mark.parametrize("limit", [0, 400, 3000, 9000])
def test_no_room_for_a_file_is_one_line_and_a_run_with_room_ends_with_the_same_bits(
    whole, tmp_path, child, bits, limit
):
    kind, message = child(lambda: execute_run(whole.spec, tmp_path / "results"), limit=limit)
    assert kind == "FairbenchError", message
    assert "cannot be written: " in message
    assert "\n" not in message
    assert str(tmp_path / "results") in message
    execute_run(whole.spec, tmp_path / "results")
    assert bits(tmp_path) == bits(whole.root)


@pytest.mark.parametrize(("limit", "name"), [(100, ".builds.lock"), (400, "v1.csv")])
def test_no_room_leaves_earlier_results_and_the_board_as_they_were(whole, tmp_path, child, limit, name):
    shutil.copytree(whole.root, tmp_path / "root")
    root = tmp_path / "root"
    before = _everything(root)
    other = _other(whole, seeds=[1])
    assert child(lambda: execute_run(other, root / "results"), limit=limit)[0] == "FairbenchError"
    kind, message = child(lambda: builder.build_boards(root / "results", root / "leaderboards", "tiny"), limit=limit)
    assert kind == "FairbenchError"
    assert f"/{name}: cannot be written: " in message
    assert before.items() <= _everything(root).items()
    builder.build_boards(root / "results", root / "leaderboards", "tiny")
    assert before.items() <= _everything(root).items()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk; a limit on files stands for it above")
def test_a_disk_that_fills_up_is_one_line_and_earlier_results_stay(whole, tmp_path, child, bits):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"this machine lets nobody mount a disk: {mounted.stderr.strip()}")
    try:
        messages = []
        for seed in range(5):
            (spec,) = plan(load_suite(str(whole.suite)), seeds=[seed])
            kind, message = child(lambda spec=spec: execute_run(spec, disk / "results"))
            if kind:
                messages.append(message)
                break
        assert len(messages) == 1
        assert kind == "FairbenchError", message
        assert "No space left on device" in message
        assert "\n" not in message
        first = whole.spec.folder
        kept = {path: content for path, content in bits(disk).items() if str(first) in path}
        assert kept == bits(whole.root)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_folder_that_may_only_be_read_is_one_line(whole, tmp_path, child):
    results = tmp_path / "results"
    results.mkdir(mode=0o755)
    above = tmp_path.parents[: 3 if "PYTEST_XDIST_WORKER" in os.environ else 2]  # each worker has a folder of its own
    for folder in (tmp_path, *above, whole.root, whole.root / "suite", whole.root.parent):
        folder.chmod(0o755)
    user = NOBODY if os.geteuid() == 0 else None
    if user is None:
        results.chmod(0o555)
    kind, message = child(lambda: execute_run(whole.spec, results), user=user)
    assert kind == "FairbenchError", message
    assert message.endswith("cannot be written: Permission denied")
    assert list(results.iterdir()) == []


def test_a_folder_that_may_not_be_searched_is_one_line(whole, tmp_path, child):
    results = tmp_path / "closed" / "results"
    results.mkdir(parents=True)
    results.parent.chmod(0o600)
    kind, message = child(lambda: execute_run(whole.spec, results), user=NOBODY if os.geteuid() == 0 else None)
    results.parent.chmod(0o700)
    assert kind == "FairbenchError", message
    assert message.endswith("cannot be written: Permission denied")
    assert list(results.iterdir()) == []
