from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import FILES, bits, copy_runs, refuse, tiny_specs

from fairbench.errors import Diverged, InvalidInput, Missing
from fairbench.leaderboard import builder
from fairbench.leaderboard.rows import rows_of
from fairbench.results.folder import RunFolder
from fairbench.run.pipeline import execute_run

MEASURED = {"train_seconds", "eval_seconds", "images_per_second", "peak_memory_mb", "created"}

pytestmark = pytest.mark.usefixtures("one_thread")


def _state(root: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file's modification time and content, except those of locks, which hold nothing."""
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_finished_run_has_its_files_and_says_what_made_it(finished):
    spec, results = finished
    folder = RunFolder(results / spec.folder)
    assert {path.name for path in folder.path.iterdir()} == FILES
    record = folder.read()
    assert record["status"] == "complete"
    assert record["spec"] == spec.model_dump(mode="json")
    assert record["run_id"] == spec.run_id == folder.path.name
    assert record["protocols"]["1"]["hash"] == spec.protocol
    assert record["provenance"]["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert record["cost"]["forwards"] > 0
    assert record["cost"]["peak_memory_mb"] > 1
    verdicts = folder.read_verdicts()
    assert list(verdicts) == ["labels", "best/clean", "best/pgd-10:rel_step=0.25", "last/clean"]
    accuracy = np.mean(verdicts["best/clean"] == verdicts["labels"])
    assert record["metrics"]["best/clean"]["average"] == pytest.approx(accuracy)


def test_two_runs_with_one_seed_are_equal_in_weights_verdicts_and_rows(finished, tmp_path):
    spec, results = finished
    again = copy_runs(finished, tmp_path, student=False)
    torch.rand(5)
    execute_run(spec, tmp_path)
    first = RunFolder(results / spec.folder)
    assert bits(again) == bits(first)
    records = [folder.read() for folder in (first, again)]
    assert records[0]["weights"] == records[1]["weights"]
    rows = [list(rows_of(folder, folder.read(), "1")) for folder in (first, again)]
    assert len(rows[0]) == 5
    for one, other in zip(*rows, strict=True):
        differing = {key for key in one if str(one[key]) != str(other[key])}
        assert differing <= MEASURED


def test_a_finished_run_is_not_run_again(finished, monkeypatch):
    spec, results = finished
    before = _state(results)
    for stage in ("train", "attack_checkpoint", "load_dataset"):
        monkeypatch.setattr(f"fairbench.run.pipeline.{stage}", refuse)
    start = time.process_time()
    record = execute_run(spec, results, progress=refuse)
    assert time.process_time() - start < 1
    assert record["run_id"] == spec.run_id
    assert _state(results) == before


def test_data_that_changed_since_the_plan_are_refused(make_suite, tmp_path):
    spec = tiny_specs(make_suite(tmp_path / "suite"), "sat")[-1]
    with np.load(tmp_path / "suite" / "test.npz") as arrays:
        np.savez(tmp_path / "suite" / "test.npz", images=255 - arrays["images"], labels=arrays["labels"])
    with pytest.raises(InvalidInput, match="changed since the run was planned"):
        execute_run(spec, tmp_path)


def test_a_diverged_run_says_so_each_time_and_keeps_what_it_has(tiny, tmp_path):
    spec = tiny_specs(tiny, "sat", recipe__lr=1e38, recipe__batch_size=64)[-1]
    folder = RunFolder(tmp_path / spec.folder)
    for _ in range(2):
        with pytest.raises(Diverged, match="epoch 0"):
            execute_run(spec, tmp_path)
        record = folder.read()
        assert record["status"] == "diverged"
        assert "non-finite value in epoch 0" in record["error"]
    with pytest.raises(Missing, match="no complete run"):
        builder.build_boards(tmp_path, tmp_path / "boards", "tiny")
