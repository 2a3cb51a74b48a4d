"""Runs on a real Ray cluster whose nodes share no folder: each copies its runs to a URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import MEASURED, ended, read_until
from object_store import Bucket, ObjectStore

from fairbench.leaderboard.board import load_leaderboard

pytest.importorskip("fsspec", reason="fsspec is not installed: pip install fsspec")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::ray")]


@pytest.fixture(params=["file", "s3"])
def place(request, tmp_path, monkeypatch) -> Iterator[tuple[str, Callable[[], Path]]]:
    """A URL, and a function that returns a folder with its content; made before the cluster's nodes start."""
    there = tmp_path / "there"
    if request.param == "file":
        yield f"file://{there}", lambda: there
        return
    pytest.importorskip("s3fs", reason="s3:// needs s3fs: pip install s3fs")
    pytest.importorskip("moto.server", reason="the store is moto's server: pip install 'moto[server]'")
    store = ObjectStore()
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    bucket = Bucket(store, "bucket")

    def download() -> Path:
        for name, content in bucket.content().items():
            (there / name).parent.mkdir(parents=True, exist_ok=True)
            (there / name).write_bytes(content)
        return there

    yield bucket.url, download
    store.stop()


def _node(cluster: Any, folder: Path) -> Any:
    """A node that keeps its copies in a folder of its own."""
    return cluster.add_node(num_cpus=1, env_vars={"FAIRBENCH_MIRRORS": str(folder)})


def _weights(root: Path) -> dict[str, bytes]:
    """The weights below a folder by run and file name."""
    return {"/".join(path.parts[-4:]): path.read_bytes() for path in sorted(root.rglob("*.safetensors"))}


def _board(text: str, cwd: Path) -> str:
    """The parts of a printed board that do not vary."""
    frame = load_leaderboard(cwd / text.splitlines()[-1])
    assert len(frame) > 20
    return frame.drop(columns=MEASURED).to_csv()


@pytest.mark.parametrize("cluster", [{"num_cpus": 0}], indirect=True)
def test_nodes_that_share_nothing_deliver_at_a_url_what_the_local_launcher_makes(
    place, cluster, make_suite, tmp_path, fairbench
):
    suite = make_suite(tmp_path / "suite")
    url, there = place
    sweep = ["run", suite, "--seeds", "0,1"]
    ray = ["--out", url, "--launcher", "ray", "--address", cluster.address]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first = _node(cluster, tmp_path / "first")
    done = ended(fairbench("run", suite, "--seeds", "0", *ray, cwd=tmp_path / "one"))
    assert done.code == 0, done.err[-5:]
    assert {line.rpartition(" (")[0] for line in done.err} >= {f"absld seed 0: fetch 0/1 {url}", "absld seed 0: done"}
    assert len(_weights(tmp_path / "first")) == len(_weights(there())) == 6
    cluster.remove_node(first, allow_graceful=False)
    _node(cluster, tmp_path / "second")
    done = ended(fairbench(*sweep, *ray, cwd=tmp_path / "two"))  # from another machine, to another
    assert done.code == 0, done.err[-5:]
    assert not any(line.startswith(("teacher", "sat seed 0", "absld seed 0")) for line in done.err)
    assert {name.split("/")[1] for name in _weights(tmp_path / "second")} == {"teacher", "sat", "absld"}
    assert not _weights(tmp_path / "one") | _weights(tmp_path / "two")
    local = ended(fairbench(*sweep, "--out", "local", "--jobs", "2"))
    assert local.code == 0, local.err[-5:]
    assert _board(done.out, tmp_path / "two") == _board(local.out, tmp_path)
    assert _weights(there()) == _weights(tmp_path / "local")
    assert len(list(there().rglob("v1.csv"))) == 1


@pytest.mark.parametrize("cluster", [{"num_cpus": 0}], indirect=True)
def test_a_node_killed_in_a_sweep_takes_nothing_with_it_that_is_at_the_url(cluster, make_suite, tmp_path, fairbench):
    suite = make_suite(tmp_path / "suite")
    sweep = ["run", suite, "--seeds", "0,1", "--set", "recipe.epochs=100"]
    _node(cluster, tmp_path / "stays")
    dies = _node(cluster, tmp_path / "dies")
    url = f"file://{tmp_path}/there"
    process = fairbench(*sweep, "--out", url, "--launcher", "ray", "--address", cluster.address)
    read_until(process, "sat seed 0: train", "sat seed 1: train")  # each node has one of them
    cluster.remove_node(dies, allow_graceful=False)
    done = ended(process)
    assert done.code == 0, done.err[-5:]
    assert sum("its node died" in line for line in done.err) == 1
    local = ended(fairbench(*sweep, "--out", "local", "--jobs", "2"))
    assert local.code == 0, local.err[-5:]
    assert _board(done.out, tmp_path) == _board(local.out, tmp_path)
    assert _weights(tmp_path / "there") == _weights(tmp_path / "local")
