"""SIGKILL at any moment of the command line's work, and the same command again: the same bits, nothing lost."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairbench.leaderboard import builder
from mortal import die_at_rename

COMMAND = [sys.executable, "-m", "fairbench.cli"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
KILLS = 50


def _build_and_die(root: Path, moment: int) -> bool:
    """Build the board in a child that is killed before (even) or after (odd) its n-th rename; False if it ends."""
    pid = os.fork()
    if pid == 0:
        die_at_rename(moment)
        try:
            builder.build_boards(root / "results", root / "leaderboards", "tiny")
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def test_a_kill_while_the_board_is_built_leaves_the_old_one_or_the_new_one(whole, tmp_path):
    new = whole.board.read_bytes()
    # Three files are renamed into place: the note that a build has begun, the board, and the checksum of the board.
    for moment, expected in enumerate([b"old", b"old", b"old", new, new, new]):
        root = tmp_path / str(moment)
        shutil.copytree(whole.root / "results", root / "results")
        board = root / whole.board.relative_to(whole.root)
        board.parent.mkdir(parents=True)
        board.write_bytes(b"old")
        assert _build_and_die(root, moment)
        assert board.read_bytes() == expected
        assert builder.build_boards(root / "results", root / "leaderboards", "tiny") == [board]
        assert board.read_bytes() == new
        assert [path for path in board.parent.iterdir() if path.suffix != ".lock"] == [board]
    assert not _build_and_die(root, moment + 1)  # no rename is left out


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker ends at its next report")
def test_workers_end_with_a_launcher_that_is_killed(whole, tmp_path):
    command = [*COMMAND, "run", str(whole.suite), "--out", "out", "--set", "recipe.epochs=5000"]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    with process:
        next(line for line in process.stderr if "train 1/" in line)
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
        workers = [int(pid) for pid in found.stdout.split()]
        workers = [
            pid for pid in workers if b"fairbench.run.launch.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        assert len(workers) == 1
        process.kill()
    deadline = time.monotonic() + 30
    while _is_alive(workers[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(workers[0])


@pytest.mark.slow
def test_fifty_kills_at_random_moments_of_whole_commands_change_no_bit(whole, tmp_path, bits):
    command = [*COMMAND, "run", str(whole.suite), "--out", "out", "--set", "recipe.epochs=30"]

    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, **silent)

    begin = time.monotonic()
    assert start(tmp_path / "undisturbed").wait() == 0
    longest = time.monotonic() - begin
    expected = bits(tmp_path / "undisturbed" / "out")
    draw = random.Random(0)
    kills = attempt = 0
    while kills < KILLS:
        process = start(tmp_path / str(attempt))
        try:
            assert process.wait(draw.uniform(0.3, 1.1) * longest) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            continue
        assert bits(tmp_path / str(attempt) / "out") == expected
        attempt += 1
    assert start(tmp_path / str(attempt)).wait() == 0
    assert bits(tmp_path / str(attempt) / "out") == expected
    print(f"{KILLS} kills, {attempt + 1} runs brought to their end, {len(expected)} files of each with the same bits")
