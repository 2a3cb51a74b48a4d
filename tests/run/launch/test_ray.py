"""Runs on a real Ray cluster: two nodes on this machine, of which one is killed."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
from commands import MEASURED, ended, read_until

from fairbench.errors import Missing
from fairbench.leaderboard.board import load_leaderboard
from fairbench.run.launch import LogLines
from fairbench.run.launch import ray as on_ray
from fairbench.run.tuning.table import read_table


def test_without_ray_the_launcher_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Missing, match=r"pip install 'robust-fairbench\[ray\]'"):
        on_ray.launch_ray([], Path("results"), address=None, jobs=None, view=LogLines())


@pytest.mark.filterwarnings("ignore:::ray")
def test_a_run_on_a_cluster_is_a_run_and_what_cannot_be_is_one_line(cluster, make_suite, tmp_path, fairbench):
    suite = make_suite(tmp_path / "suite", methods=["sat"])
    where = ["--launcher", "ray", "--address", cluster.address]
    done = ended(fairbench("run", suite, "--out", "out", *where))
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "out/leaderboards/tiny/v1.csv"
    assert {line.rpartition(" (")[0] for line in done.err} >= {
        "sat seed 0: waiting for a node 0/1",
        "sat seed 0: evaluate last/clean 40/40",
        "sat seed 0: done",
    }
    assert not any("ray" in line.lower() for line in done.err)
    failed = ended(fairbench("run", suite, "--out", "out", "--seeds", "1", "--set", "recipe.lr=1e38", *where))
    assert failed.code == 2
    assert failed.err[-1].startswith("fairbench: sat seed 1: training diverged: non-finite value in epoch 0")
    process = fairbench("run", suite, "--out", "out", "--seeds", "2", "--set", "recipe.epochs=5000", *where)
    read_until(process, "train 1/")
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    stopped = ended(process)
    assert stopped.code == 130
    assert time.monotonic() - begin < 5
    assert stopped.err[-1].startswith("fairbench: stopped")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::ray")
def test_a_tuning_on_a_cluster_makes_the_choice_of_the_local_launcher(cluster, make_suite, tmp_path, fairbench):
    suite = make_suite(tmp_path / "suite", tuning={"lr": [0.05, 0.2], "trials": 3, "epochs": 1, "confirm": 1})
    words = ["tune", suite, "--methods", "sat", "--jobs", "2"]
    done = ended(fairbench(*words, "--out", "ray", "--launcher", "ray", "--address", cluster.address))
    assert done.code == 0, done.err
    assert {line.rpartition(" (")[0] for line in done.err} >= {
        "sat seed 1000: waiting for a node 0/1",
        "sat seed 1001: done",
    }
    assert ended(fairbench(*words, "--out", "local")).code == 0
    on_cluster, here = (tmp_path / name / "tuning" / "tiny" for name in ("ray", "local"))
    assert (on_cluster / "v1.yaml").read_bytes() == (here / "v1.yaml").read_bytes()
    tables = [
        [row.model_copy(update={"train_seconds": 0.0}) for row in read_table(folder / "v1.csv")]
        for folder in (on_cluster, here)
    ]
    assert tables[0] == tables[1]
    assert [(row.method, row.trial, row.seed) for row in tables[0]] == [
        ("sat", 0, 1000),
        ("sat", 1, 1000),
        ("sat", 2, 1001),
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::ray")
def test_a_node_killed_in_a_sweep_leaves_the_leaderboard_of_the_local_launcher(
    cluster, make_suite, tmp_path, fairbench
):
    suite = make_suite(tmp_path / "suite")
    sweep = ["run", suite, "--seeds", "0,1", "--set", "recipe.epochs=100"]
    node = cluster.add_node(num_cpus=1)
    process = fairbench(*sweep, "--out", "ray", "--launcher", "ray", "--address", cluster.address)
    log = read_until(process, "sat seed 0: train", "sat seed 1: train")  # each node has one of them
    assert any("teacher seed 0: done" in line for line in log[:-1]) or "teacher seed 0: train" in "\n".join(log)
    cluster.remove_node(node, allow_graceful=False)
    done = ended(process)
    assert done.code == 0, done.err[-5:]
    assert sum("its node died" in line for line in done.err) == 1
    local = ended(fairbench(*sweep, "--out", "local", "--jobs", "2"))
    assert local.code == 0, local.err[-5:]
    boards = [tmp_path / name / "leaderboards" / "tiny" for name in ("ray", "local")]
    (name,) = {path.name for board in boards for path in board.glob("*.csv")}
    frames = [load_leaderboard(board / name).drop(columns=MEASURED) for board in boards]
    assert len(frames[0]) > 20
    assert frames[0].to_csv() == frames[1].to_csv()
    weights = [sorted((tmp_path / root).glob("results/*/*/*/*.safetensors")) for root in ("ray", "local")]
    assert [path.read_bytes() for path in weights[0]] == [path.read_bytes() for path in weights[1]]
