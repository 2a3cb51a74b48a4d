"""A teacher from a file: it is evaluated once, as a trained teacher is, and never trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import run_suite

from fairbench.errors import InvalidInput, Missing
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.ranking import ranking
from fairbench.report.html import site
from fairbench.results.folder import RunFolder
from fairbench.run import benchmark, forecast
from fairbench.run.pipeline import execute_run

pytestmark = pytest.mark.usefixtures("launched")


@pytest.fixture(scope="module")
def weights(make_suite, tmp_path_factory) -> Path:
    """The best checkpoint of the suite's own teacher, in the folder of its run."""
    root = tmp_path_factory.mktemp("trained")
    teacher, *_ = benchmark.prepare_plan(str(make_suite(root / "suite")), methods=["absld"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    execute_run(teacher, root / "results")
    torch.set_num_threads(threads)
    return RunFolder(root / "results" / teacher.folder).best


def _suite(make_suite, tmp_path: Path, weights: Path) -> str:
    given = tmp_path / "teacher.safetensors"
    given.write_bytes(weights.read_bytes())
    return str(make_suite(tmp_path / "suite", teacher={"checkpoint": f"file:{given}"}))


def test_its_row_has_the_figures_of_the_same_teacher_trained_in_the_suite(make_suite, tmp_path, weights, monkeypatch):
    suite = _suite(make_suite, tmp_path, weights)
    specs = benchmark.prepare_plan(suite, methods=["absld"])
    assert [(spec.label, spec.checkpoint is None) for spec in specs] == [("teacher", False), ("absld", True)]
    assert forecast.forecast(specs, tmp_path / "results")[0].state == "trained"
    board = load_leaderboard(run_suite(suite, root=tmp_path, methods=["absld"]))

    folder = RunFolder(tmp_path / "results" / specs[0].folder)
    assert {path.name for path in folder.path.iterdir()} == {"run.json", "verdicts.npz"}
    stored, trained = folder.read_verdicts(), RunFolder(weights.parent).read_verdicts()
    assert set(stored) == {"labels", "best/clean", "best/pgd-10:rel_step=0.25"}
    assert all(np.array_equal(stored[key], trained[key]) for key in stored)
    assert folder.read()["weights"]["best"] == json.loads((weights.parent / "run.json").read_text())["weights"]["best"]

    rows = board[board["method"] == "teacher"]
    assert set(rows["checkpoint"]) == {"best"}
    assert set(rows["base"]) == {"checkpoint"}
    assert rows[["class_0", "class_3", "forwards", "train_seconds"]].iloc[0].notna().all()
    assert rows["forwards"].max() == 0
    assert board.loc[board["method"] == "absld", "teacher"].str.startswith("file:").all()
    frame = ranking(board)
    assert frame["method"].tolist() == ["absld", "teacher"]
    assert frame["rank"].isna().tolist() == [False, True]
    assert ranking(board, checkpoint="last")["method"].tolist() == ["absld"]
    pages = site.build_site([tmp_path / "leaderboards/tiny/v1.csv"], tmp_path / "site")
    page = (tmp_path / "site/tiny-v1/teacher.html").read_text(encoding="utf-8")
    assert "Given as a checkpoint: evaluated as it is, not trained here." in page
    names = ["index.html", "tiny-v1.html", "tiny-v1.csv", "tiny-v1/absld.html", "tiny-v1/teacher.html"]
    assert sorted(str(path.relative_to(tmp_path / "site")) for path in pages) == sorted(names)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("this must not run again")

    assert [one.state for one in forecast.forecast(specs, tmp_path / "results")] == ["done", "done"]
    for stage in ("train", "attack_checkpoint"):
        monkeypatch.setattr(f"fairbench.run.pipeline.{stage}", refuse)
    run_suite(suite, root=tmp_path, methods=["absld"])


def test_a_file_that_is_gone_or_changed_after_the_plan_is_named(make_suite, tmp_path, weights):
    teacher, student = benchmark.prepare_plan(_suite(make_suite, tmp_path, weights), methods=["absld"])
    given = tmp_path / "teacher.safetensors"
    given.write_bytes(given.read_bytes() + b"\0")
    for spec in (teacher, student):
        with pytest.raises(InvalidInput, match=r"teacher\.safetensors: changed since the run was planned"):
            execute_run(spec, tmp_path / "results")
    given.unlink()
    with pytest.raises(Missing, match=r"teacher\.safetensors: no such file"):
        execute_run(teacher, tmp_path / "results")
