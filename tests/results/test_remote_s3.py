"""Results at an s3:// URL, through s3fs and real HTTP to moto's server on this machine."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from object_store import Bucket, ObjectStore, push
from stored import CLEAN, PGD, run_spec
from stored import store as write_run

from fairbench.cli import app
from fairbench.errors import FairbenchError
from fairbench.results.folder import RunFolder
from fairbench.results.mirror import Mirror
from fairbench.results.remote import fetch_results

pytest.importorskip("s3fs", reason="s3:// needs s3fs: pip install s3fs")
pytest.importorskip("moto.server", reason="the store of this test is moto's server: pip install 'moto[server]'")


NUMBERS = count(1)
EVERYTHING = 1_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    """The store, for all tests of this module: s3fs keeps its connections."""
    found = ObjectStore()
    yield found
    found.stop()


@pytest.fixture
def store(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket of this test's own, and what is in it by name."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.kill_at(EVERYTHING, before=True)
    return Bucket(server, f"bucket-{next(NUMBERS)}")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[str, str]]:
    """Return `command(machine, *words) -> stdout, stderr` of a command on one of several machines."""

    def run(machine: str, *words: str) -> tuple[str, str]:
        (tmp_path / machine).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / machine)
        monkeypatch.setattr("sys.argv", ["fairbench", *words])
        assert not app(list(words), standalone_mode=False)
        return capsys.readouterr()

    return run


@pytest.mark.slow
def test_a_suite_on_s3_is_run_once_and_a_damaged_object_made_again(store, make_suite, tmp_path, command):
    attacks = {"best": ["clean"], "last": [], "batch_size": 40}
    suite = str(make_suite(tmp_path / "suite", methods=["sat"], evaluation=attacks))
    first, said = command("one", "run", suite, "--out", store.url)
    assert "train" in said
    there = store.content()
    expected = ("run.json", "verdicts.npz", "history.csv", "best.safetensors", "last.safetensors", "v1.csv")
    assert {Path(name).name for name in there} == set(expected)
    store.server.writes.clear()
    second, said = command("two", "run", suite, "--out", store.url)
    assert (second, "train" in said) == (first, False)
    assert [write.rpartition("/")[2] for write in store.server.writes] == ["v1.csv"]  # nothing else is written again
    assert store.content() == there
    (weights,) = (name for name in there if name.endswith("best.safetensors"))
    store.damage(weights)
    _, said = command("three", "run", suite, "--out", store.url)
    assert f"{store.url}/{weights}: content does not match the checksum in run.json; left out" in said
    assert "train" in said
    again = store.content()
    record = weights.replace("best.safetensors", "run.json")
    assert again[weights] == there[weights]
    assert again[f"{record}.corrupt-1"] == there[record]
    RunFolder(fetch_results(store.url) / Path(weights).parent).verify()


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_copier_killed_at_any_of_its_requests_leaves_no_half_run(store, tmp_path, monkeypatch, before):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["fairbench.results.remote", "s3fs"])
    moment, seen = 0, []

    def copy(url: str, folder: Path, **killed: Any) -> bool:
        """Copy in a process of its own; True if it was killed."""
        store.server.kill_at(killed.get("moment", EVERYTHING), before=before)
        process = processes.Process(target=push, args=(url, str(folder), store.server.environment))
        process.start()
        store.server.victim(process.pid)
        process.join()
        assert process.exitcode in (0, -9)
        return process.exitcode == -9

    older = {"best/clean": CLEAN, "last/clean": CLEAN}
    newer = {"best/clean": PGD, "best/pgd-20": PGD, "last/clean": CLEAN}
    while True:
        one, url = tmp_path / f"one{moment}", f"{store.url}{moment}"
        _finish(monkeypatch, one, url, predicted=older, protocols={})
        assert not copy(url, one)
        folder = _finish(monkeypatch, one, url, predicted=newer)
        ours = folder.read()
        killed = copy(url, one, moment=moment)
        seen.append(_at(monkeypatch, tmp_path / f"two{moment}", url))
        if not killed:
            break
        assert not copy(url, one)
        assert _at(monkeypatch, tmp_path / f"three{moment}", url) == ours
        moment += 1
    old, *gone, whole = (set(record.get("evaluations", ())) for record in seen)
    assert moment == 5  # the removal of the old record, three files, and the new record
    assert old == (set(older) if before else set())
    assert whole == set(newer)
    assert gone[:-1] == [set()] * 3
    assert gone[-1] == (set() if before else set(newer))


def _finish(
    monkeypatch: pytest.MonkeyPatch, machine: Path, url: str, weights: bytes = b"weights " * 100, **changes: Any
) -> RunFolder:
    """A finished run in the local folder of a URL on a machine, its weights included."""
    machine.mkdir(exist_ok=True)
    monkeypatch.chdir(machine)
    mirror = Mirror(url)
    path = machine / mirror.folder / "results" / run_spec().folder
    path.mkdir(parents=True, exist_ok=True)
    for name in ("best.safetensors", "last.safetensors"):
        (path / name).write_bytes(weights)
    return write_run(machine / mirror.folder / "results", run_spec(), **changes)


def _at(monkeypatch: pytest.MonkeyPatch, machine: Path, url: str) -> dict[str, Any]:
    """The record of the run as another machine finds it at the URL, none where it is not there; it is not damaged."""
    machine.mkdir()
    monkeypatch.chdir(machine)
    folder = RunFolder(fetch_results(url) / "results" / run_spec().folder)
    assert folder.damage() == {}
    return folder.read()


@pytest.mark.slow
def test_weights_that_are_uploaded_in_parts_arrive_whole(store, tmp_path, monkeypatch):
    size = 101 * 2**20  # s3fs cuts what has 100 MiB or more
    folder = _finish(monkeypatch, tmp_path / "one", store.url, weights=os.urandom(size))
    store.server.writes.clear()
    Mirror(store.url).push_runs()
    parts = [write for write in store.server.writes if write.endswith("best.safetensors")]
    assert [write.partition(" ")[0] for write in parts] == ["POST", "PUT", "PUT", "PUT", "POST"]
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "two")
    other = Mirror(store.url)
    other.pull(weights_of=[str(run_spec().folder)])
    found = RunFolder(other.folder / "results" / run_spec().folder)
    found.verify()
    assert found.best.stat().st_size == size
    assert found.read() == folder.read()


def test_a_bucket_that_is_not_there_is_one_line(store, tmp_path, monkeypatch):
    url = "s3://no-such-bucket/dir"
    with pytest.raises(FairbenchError, match=r"^s3://no-such-bucket/dir: cannot be read or written: ") as caught:
        _at(monkeypatch, tmp_path / "one", url)
    assert "\n" not in str(caught.value)
