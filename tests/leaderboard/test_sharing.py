from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stored import build_board, run_spec, store

from fairbench.errors import InvalidInput
from fairbench.leaderboard.builder import load_leaderboard
from fairbench.leaderboard.sharing import shared_build

# Adds runs one by one, each of five rows, and rebuilds the board after each; says so once it has begun.
WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from stored import build_board, run_spec, store
root, writer, runs = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
for number in range(runs):
    store(root / "results", run_spec(f"sat+w{writer}", seed=number))
    build_board(root)
    print(number, flush=True)
"""


def _writer(root: Path, writer: int, runs: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(Path(__file__).parents[1]), str(root), str(writer), str(runs)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _hammer(root: Path, writers: int, runs: int) -> int:
    """Start writers and one that is killed at work, read the board all the while; returns how often it was read."""
    victim = _writer(root, writers, 1000)
    started = [_writer(root, number, runs) for number in range(writers)]
    path, reads, killed = root / "leaderboards" / "tiny" / "v1.csv", 0, False
    assert victim.stdout is not None
    victim.stdout.readline()
    while any(process.poll() is None for process in started):
        load_leaderboard(path)
        reads += 1
        if not killed and reads > 2:
            victim.send_signal(signal.SIGKILL)
            killed = True
        time.sleep(0.02)
    if not killed:
        victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert [process.wait() for process in started] == [0] * writers
    for process in started:
        process.communicate()
    with path.open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["seed"] not in ("mean", "std")]
    assert len({row["run_id"] for row in rows if row["method"] != f"sat+w{writers}"}) == writers * runs
    for number in range(writers):
        assert sum(row["method"] == f"sat+w{number}" for row in rows) == 5 * runs
    files = {file.name for file in path.parent.iterdir() if not file.name.endswith(".lock")}
    assert {name for name in files if not name.startswith(".v1.csv.")} == {"v1.csv"}
    before = path.read_bytes()
    build_board(root)
    after = {line for line in path.read_bytes().splitlines() if f"sat+w{writers}".encode() not in line}
    assert after == {line for line in before.splitlines() if f"sat+w{writers}".encode() not in line}
    return reads


def test_writers_at_once_and_one_killed_lose_nothing(tmp_path):
    assert _hammer(tmp_path, writers=3, runs=3) > 1


@pytest.mark.slow
def test_sixteen_writers_of_fifty_rows_each_and_one_killed_lose_nothing(tmp_path):
    assert _hammer(tmp_path, writers=16, runs=10) > 16


def test_a_build_that_began_after_the_request_serves_it(tmp_path, monkeypatch):
    path = tmp_path / "v1.csv"
    calls = []

    def build() -> list[Path]:
        calls.append(None)
        path.write_text(f"{len(calls)}")
        return [path]

    assert shared_build(tmp_path, tmp_path, build) == shared_build(tmp_path, tmp_path, build) == [path]
    assert len(calls) == 2  # one after the other, nobody waited

    from fairbench.leaderboard import sharing

    read, asked = sharing._read, []

    def read_then_be_overtaken(state: Path) -> dict:
        found = read(state)
        asked.append(None)
        if len(asked) == 1:  # between this request and its lock another process asks and builds
            shared_build(tmp_path, tmp_path, build)
        return found

    monkeypatch.setattr(sharing, "_read", read_then_be_overtaken)
    assert shared_build(tmp_path, tmp_path, build) == [path]
    assert len(calls) == 3
    asked.clear()
    path_of_others = tmp_path / "others"
    assert shared_build(tmp_path, path_of_others, build) == [path]  # other results: the overtaking build is no use
    assert len(calls) == 5


def test_a_build_that_fails_or_whose_file_was_changed_serves_nobody(tmp_path, monkeypatch):
    from fairbench.leaderboard import sharing

    path = tmp_path / "v1.csv"

    def build() -> list[Path]:
        path.write_text("good")
        return [path]

    def fail() -> list[Path]:
        raise InvalidInput("no")

    shared_build(tmp_path, tmp_path, build)
    read, first = sharing._read, []

    def overtaken(state: Path) -> dict:
        found = read(state)
        if not first:
            first.append(None)
            with pytest.raises(InvalidInput):
                shared_build(tmp_path, tmp_path, fail)
            path.write_text("bad")
        return found

    monkeypatch.setattr(sharing, "_read", overtaken)
    shared_build(tmp_path, tmp_path, build)
    assert path.read_text() == "good"


def test_a_damaged_state_only_costs_a_build(tmp_path):
    store(tmp_path / "results", run_spec())
    (path,) = build_board(tmp_path)
    expected = path.read_bytes()
    for damage in ("", "[]", "{"):
        (path.parent / ".sharing.lock").write_text(damage)
        assert build_board(tmp_path) == [path]
        assert path.read_bytes() == expected


def test_a_board_that_other_hands_changed_is_named_kept_and_made_again(tmp_path, capsys):
    store(tmp_path / "results", run_spec())
    (path,) = build_board(tmp_path)
    whole = path.read_bytes()
    for number, damaged in enumerate((whole.replace(b"0.8750", b"0.9750", 1), whole[: len(whole) // 2]), start=1):
        path.write_bytes(damaged)
        assert build_board(tmp_path) == [path]
        assert path.read_bytes() == whole
        aside = path.with_name(f"v1.csv.corrupt-{number}")
        assert aside.read_bytes() == damaged
        assert capsys.readouterr().err == f"{path}: not what was built; kept as {aside.name}, and made again\n"
    store(tmp_path / "results", run_spec(seed=1))
    build_board(tmp_path)  # what a build itself changes is no damage
    path.write_bytes(path.read_bytes())
    path.unlink()
    build_board(tmp_path)
    assert capsys.readouterr().err == ""
    assert len(list(path.parent.glob("*.corrupt-*"))) == 2
