"""Runs on a real Ray cluster: two nodes on this machine, of which one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairbench.errors import Missing
from fairbench.launch import LogLines
from fairbench.launch import ray as on_ray
from fairbench.leaderboard.builder import load_leaderboard

MEASURED = ["train_seconds", "eval_seconds", "images_per_second", "peak_memory_mb", "created", "device", "command"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_without_ray_the_launcher_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Missing, match=r"pip install 'robust-fairbench\[ray\]'"):
        on_ray.launch([], Path("results"), address=None, jobs=None, view=LogLines())


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head and, when asked for, more nodes of one CPU each; this process's signal handlers stay its own."""
    pytest.importorskip("ray", reason="the ray launcher is an extra: pip install 'robust-fairbench[ray]'")
    from ray.cluster_utils import Cluster

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def fairbench(tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return `fairbench(*arguments) -> process`, whose stderr is a pipe."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fairbench.cli", *map(str, arguments)]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _end(process: subprocess.Popen[str]) -> SimpleNamespace:
    out, err = process.communicate(timeout=300)
    return SimpleNamespace(code=process.returncode, out=out, err=err.splitlines())


def _until(process: subprocess.Popen[str], *wanted: str) -> list[str]:
    """Read the log until every one of these has been in it."""
    log: list[str] = []
    for line in process.stderr:
        log.append(line.rstrip())
        if all(any(text in line for line in log) for text in wanted):
            return log
    raise AssertionError("\n".join(log))


@pytest.mark.filterwarnings("ignore:::ray")
def test_a_run_on_a_cluster_is_a_run_and_what_cannot_be_is_one_line(cluster, make_suite, tmp_path, fairbench):
    suite = make_suite(tmp_path / "suite", methods=["sat"])
    where = ["--launcher", "ray", "--address", cluster.address]
    done = _end(fairbench("run", suite, "--out", "out", *where))
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "out/leaderboards/tiny/v1.csv"
    assert {line.rpartition(" (")[0] for line in done.err} >= {
        "sat seed 0: waiting for a node 0/1",
        "sat seed 0: evaluate last/clean 40/40",
        "sat seed 0: done",
    }
    assert not any("ray" in line.lower() for line in done.err)
    failed = _end(fairbench("run", suite, "--out", "out", "--seeds", "1", "--set", "recipe.lr=1e38", *where))
    assert failed.code == 2
    assert failed.err[-1].startswith("fairbench: sat seed 1: training diverged: non-finite value in epoch 0")
    process = fairbench("run", suite, "--out", "out", "--seeds", "2", "--set", "recipe.epochs=5000", *where)
    _until(process, "train 1/")
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    stopped = _end(process)
    assert stopped.code == 130
    assert time.monotonic() - begin < 5
    assert stopped.err[-1].startswith("fairbench: interrupted")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::ray")
def test_a_node_killed_in_a_sweep_leaves_the_leaderboard_of_the_local_launcher(
    cluster, make_suite, tmp_path, fairbench
):
    suite = make_suite(tmp_path / "suite")
    sweep = ["run", suite, "--seeds", "0,1", "--set", "recipe.epochs=100"]
    node = cluster.add_node(num_cpus=1)
    process = fairbench(*sweep, "--out", "ray", "--launcher", "ray", "--address", cluster.address)
    log = _until(process, "sat seed 0: train", "sat seed 1: train")  # each node has one of them
    assert any("teacher seed 0: done" in line for line in log[:-1]) or "teacher seed 0: train" in "\n".join(log)
    cluster.remove_node(node, allow_graceful=False)
    done = _end(process)
    assert done.code == 0, done.err[-5:]
    assert sum("its node died" in line for line in done.err) == 1
    local = _end(fairbench(*sweep, "--out", "local", "--jobs", "2"))
    assert local.code == 0, local.err[-5:]
    boards = [tmp_path / name / "leaderboards" / "tiny" for name in ("ray", "local")]
    (name,) = {path.name for board in boards for path in board.glob("*.csv")}
    frames = [load_leaderboard(board / name).drop(columns=MEASURED) for board in boards]
    assert len(frames[0]) > 20
    assert frames[0].to_csv() == frames[1].to_csv()
    weights = [sorted((tmp_path / root).glob("results/*/*/*/*.safetensors")) for root in ("ray", "local")]
    assert [path.read_bytes() for path in weights[0]] == [path.read_bytes() for path in weights[1]]
