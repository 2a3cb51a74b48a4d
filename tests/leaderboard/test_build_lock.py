from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from stored import build_board, run_spec, store

from fairbench.errors import InvalidInput
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.build_lock import build_alone

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
    assert _hammer(tmp_path, writers=3, runs=8) > 1


@pytest.mark.slow
def test_sixteen_writers_of_fifty_rows_each_and_one_killed_lose_nothing(tmp_path):
    assert _hammer(tmp_path, writers=16, runs=10) > 16


def test_a_build_waits_for_the_one_before_it_and_reads_the_results_afterwards(tmp_path):
    store(tmp_path / "results", run_spec())
    folder, events, holding = tmp_path / "leaderboards" / "tiny", [], threading.Event()

    def slow() -> list[Path]:
        holding.set()
        time.sleep(0.3)
        store(tmp_path / "results", run_spec(seed=1))  # while the other build waits
        events.append("first")
        return []

    first = threading.Thread(target=build_alone, args=(folder, slow))
    first.start()
    assert holding.wait(10)
    (path,) = build_board(tmp_path)
    events.append("second")
    first.join(10)
    assert events == ["first", "second"]
    assert {"0", "1"} <= set(load_leaderboard(path)["seed"])


def test_a_build_that_fails_leaves_the_lock_free_and_the_board_as_it_was(tmp_path):
    store(tmp_path / "results", run_spec())
    (path,) = build_board(tmp_path)
    before = path.read_bytes()

    def fail() -> list[Path]:
        raise InvalidInput("no")

    with pytest.raises(InvalidInput, match="no"):
        build_alone(path.parent, fail)
    assert "building" not in (path.parent / ".builds.lock").read_text()
    assert build_board(tmp_path) == [path]
    assert path.read_bytes() == before


# Builds the board and is killed before it has stored what it wrote.
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from stored import build_board
from fairbench.leaderboard import build_lock
build_lock.checksum = lambda path: os.kill(os.getpid(), signal.SIGKILL)
build_board(Path(sys.argv[2]))
"""


def test_what_a_killed_build_wrote_is_no_edit_and_an_edit_before_it_is(tmp_path, capsys):
    store(tmp_path / "results", run_spec())
    (path,) = build_board(tmp_path)
    (path.parent / ".builds.lock").write_text('{"files": {}}')  # with nothing to compare, the first checksum comes late
    store(tmp_path / "results", run_spec(seed=1))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    state = path.parent / ".builds.lock"
    assert '"building": true' in state.read_text()
    # As it is where the build before the killed one was of one seed.
    began = state.stat().st_mtime_ns
    state.write_text(json.dumps({"files": {"v1.csv": "0" * 64}, "building": True}))
    os.utime(state, ns=(began, began))
    store(tmp_path / "results", run_spec(seed=2))
    build_board(tmp_path)
    assert capsys.readouterr().err == ""
    assert set(load_leaderboard(path)["seed"]) == {"0", "1", "2", "mean", "std"}
    state.write_text(json.dumps({"files": {"v1.csv": "0" * 64}, "building": True}))
    os.utime(path, ns=(began, began))  # edited before the killed build began
    os.utime(state, ns=(began + 10**9, began + 10**9))
    path.write_bytes(path.read_bytes().replace(b"0.8750", b"0.9750", 1))
    os.utime(path, ns=(began, began))
    build_board(tmp_path)
    assert "v1.csv: edited since its build; kept as " in capsys.readouterr().err


@pytest.mark.parametrize("level", ["leaderboards", "leaderboards/tiny"])
def test_a_build_does_not_write_through_a_linked_folder(tmp_path, level):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    store(root / "results", run_spec())
    elsewhere.mkdir()
    (root / level).parent.mkdir(exist_ok=True)
    (root / level).symlink_to(elsewhere)
    with pytest.raises(InvalidInput, match=f"^{root / level}: is a link"):
        build_board(root)
    assert list(elsewhere.iterdir()) == []


def test_a_damaged_state_only_costs_a_build(tmp_path):
    store(tmp_path / "results", run_spec())
    (path,) = build_board(tmp_path)
    expected = path.read_bytes()
    for damage in ("", "[]", "{", '{"files": [1]}', '{"files": {"../x": "0"}}', '{"files": {"v1.csv": 3}}'):
        (path.parent / ".builds.lock").write_text(damage)
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
        assert capsys.readouterr().err == f"{path}: edited since its build; kept as {aside.name} and rebuilt\n"
    store(tmp_path / "results", run_spec(seed=1))
    build_board(tmp_path)  # what a build itself changes is no damage
    path.write_bytes(path.read_bytes())
    path.unlink()
    build_board(tmp_path)
    assert capsys.readouterr().err == ""
    assert len(list(path.parent.glob("*.corrupt-*"))) == 2


def _edited(path: Path) -> bytes:
    path.write_bytes(path.read_bytes().replace(b"0.8750", b"0.9750", 1))
    return path.read_bytes()


def test_a_build_that_fails_after_it_has_replaced_an_edited_board_keeps_and_names_it(tmp_path, capsys):
    store(tmp_path / "results", run_spec())
    (path,) = build_board(tmp_path)
    edited = _edited(path)
    store(tmp_path / "results", run_spec(seed=1))
    store(tmp_path / "results", run_spec(seed=2, version=2))
    changed = {key: {"seconds": 1.5, "source_hash": "ab"} for key in ("best/clean", "best/pgd-20", "last/clean")}
    other = store(tmp_path / "results", run_spec(seed=3, version=2), evaluations=changed)
    with pytest.raises(InvalidInput, match="the plug-in code has changed"):
        build_board(tmp_path)
    assert set(load_leaderboard(path)["seed"]) == {"0", "1", "mean", "std"}
    aside = path.with_name("v1.csv.corrupt-1")
    assert aside.read_bytes() == edited
    assert capsys.readouterr().err == f"{path}: edited since its build; kept as {aside.name} and rebuilt\n"
    other.run.unlink()
    store(tmp_path / "results", run_spec(seed=4))
    assert len(build_board(tmp_path)) == 2  # what the build wrote that failed is no edit
    assert capsys.readouterr().err == ""
    assert [found.name for found in path.parent.glob("*.corrupt-*")] == [aside.name]


@pytest.mark.parametrize("error", [InvalidInput("no"), KeyboardInterrupt()], ids=["fails", "is interrupted"])
@pytest.mark.parametrize("replaced", [False, True], ids=["before", "after"])
def test_an_edited_board_stays_or_is_kept_when_a_build_ends_early(tmp_path, capsys, error, replaced):
    store(tmp_path / "results", run_spec())
    (path,) = build_board(tmp_path)
    whole, edited = path.read_bytes(), _edited(path)

    def ends() -> list[Path]:
        if replaced:
            path.write_bytes(whole)
        raise error

    for number in (1, 2):
        with pytest.raises(type(error)):
            build_alone(path.parent, ends)
        asides = list(path.parent.glob("*.corrupt-*"))
        assert [aside.read_bytes() for aside in asides] == [edited] * replaced
        assert ("edited since its build" in capsys.readouterr().err) == (replaced and number == 1)
        assert path.read_bytes() == (whole if replaced else edited)
    build_board(tmp_path)
    assert ("edited since its build" in capsys.readouterr().err) == (not replaced)
    assert [aside.read_bytes() for aside in path.parent.glob("*.corrupt-*")] == [edited]
    assert path.read_bytes() == whole


@pytest.mark.parametrize("replaced", [False, True], ids=["before", "after"])
def test_the_build_after_a_killed_one_keeps_the_edited_board_that_it_replaced(tmp_path, capsys, replaced):
    store(tmp_path / "results", run_spec())
    (path,) = build_board(tmp_path)
    whole, edited = path.read_bytes(), _edited(path)

    def dies() -> list[Path]:
        if replaced:
            path.write_bytes(whole)
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                build_alone(path.parent, dies)
            finally:
                os._exit(1)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    build_board(tmp_path)
    assert [aside.read_bytes() for aside in path.parent.glob("*.corrupt-*")] == [edited]
    assert path.read_bytes() == whole
    assert list(path.parent.glob("*.left")) == list(path.parent.glob(".*.left")) == []
