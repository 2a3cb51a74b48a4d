"""A board made in one folder by `board.sh`, and published from another one with what was packed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from gpu.steps import ROOT

SUITE = {
    "data": {
        "name": "digits",
        "train_per_class": 20,
        "test_per_class": 10,
        "validation_per_class": 5,
        "method_per_class": 4,
    },
    "model": "small-cnn:width=4,batchnorm=true",
    "teacher": {"method": "trades", "recipe": {"epochs": 1}},
    "threat": {"eps": 0.2},
    "recipe": {"epochs": 2, "batch_size": 32, "lr": 0.1, "attack_steps": 3},
    "selection": {"attack": "pgd-5:rel_step=0.5"},
    "evaluation": {"best": ["clean", "pgd-10:rel_step=0.25"], "last": ["clean"], "batch_size": 50},
    "tuning": {"lr": [0.1], "trials": 1, "confirm": 0, "seeds": [1000], "epochs": 1},
    "methods": ["sat", "absld"],
}


def fairbench(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "fairbench", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_packed_board_is_published_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRBENCH_GPU_START", str(time.time()))
    monkeypatch.setenv("PYTHON", sys.executable)
    suite = tmp_path / "mini.yaml"
    suite.write_text(yaml.safe_dump(SUITE), encoding="utf-8")
    words = [str(suite), "--minutes", "8", "--jobs", "2", "--state", "state", "--out", "out", "--max-files", "3"]
    done = subprocess.run(
        ["bash", str(ROOT / "tests/gpu/board.sh"), *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every method is complete" in done.stdout
    assert len(list((tmp_path / "out").iterdir())) == 3
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["tar", "xzf", str(tmp_path / "out/mini-board-1.tar.gz")], cwd=other, check=True)
    made = (other / "leaderboards/mini/v1.csv").read_bytes()
    (other / "leaderboards/mini/v1.csv").unlink()
    fairbench(other, "leaderboard", "build", "mini", "--publish")
    assert (other / "leaderboards/mini/v1.csv").read_bytes() == made
    assert fairbench(other, "results", "check", "results/mini").count("ok, 0 of 3 attacks run again (") == 3
    subprocess.run(["tar", "xzf", str(tmp_path / "out/mini-weights-1.tar.gz")], cwd=other, check=True)
    assert (
        fairbench(other, "results", "check", "results/mini").count(
            "ok, 3 of 3 attacks run again, with the same verdicts"
        )
        == 3
    )
    fairbench(other, "run", "mini", "--publish")  # on an equal machine nothing is left to run
    assert (other / "leaderboards/mini/v1.csv").read_bytes() == made
