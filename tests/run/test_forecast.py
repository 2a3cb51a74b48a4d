from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from fairbench.results.folder import RunFolder
from fairbench.run.benchmark import prepare
from fairbench.run.forecast import Forecast, forecast, render, span
from fairbench.run.pipeline import execute
from fairbench.suites.spec import RunSpec


@pytest.fixture(scope="module")
def suite(make_suite, tmp_path_factory) -> str:
    return str(make_suite(tmp_path_factory.mktemp("suite"), methods=["sat", "absld"]))


@pytest.fixture(scope="module")
def results(suite, tmp_path_factory) -> Path:
    """The teacher and sat are done, with costs of 8 and 6 seconds a training and 1 second an attack."""
    results = tmp_path_factory.mktemp("results")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for spec, seconds in zip(prepare(suite)[:2], (8.0, 6.0), strict=True):
        record = execute(spec, results)
        record["cost"]["train_seconds"] = seconds
        record["evaluations"] = {key: {**cost, "seconds": 1.0} for key, cost in record["evaluations"].items()}
        RunFolder(results / spec.folder).write(record)
    torch.set_num_threads(threads)
    return results


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _state(item: Forecast) -> tuple[str, int, str, float | None]:
    return item.spec.label, item.spec.seed, item.state, item.seconds


def test_costs_are_those_measured_and_what_was_not_says_so(suite, results):
    found = forecast(prepare(suite, seeds=[0, 1]), results)
    assert [_state(item) for item in found] == [
        ("teacher", 0, "done", 0.0),
        ("sat", 0, "done", 0.0),
        ("sat", 1, "to do", 6.0 + 3.0),
        ("absld", 0, "to do", None),
        ("absld", 1, "to do", None),
    ]


def test_training_scales_with_epochs_and_another_recipe_is_another_cost(suite, results):
    (longer,) = forecast(prepare(suite, methods=["sat"], overrides={"recipe.epochs": 10}), results)
    assert (longer.state, longer.seconds) == ("to do", 6.0 / 2 * 10 + 3.0)
    (harder,) = forecast(prepare(suite, methods=["sat"], overrides={"recipe.attack_steps": 5}), results)
    assert harder.seconds is None
    (wider,) = forecast(prepare(suite, methods=["sat"], overrides={"model": "small-cnn:width=8"}), results)
    assert wider.seconds is None


def test_an_attack_without_verdicts_is_what_is_left(suite, results, tmp_path):
    more = {"evaluation.last": ["clean", "fgsm"]}
    (item,) = forecast(prepare(suite, methods=["sat"], overrides=more), results)
    assert (item.state, item.seconds) == ("trained", None)
    shutil.copytree(results, tmp_path / "copy")
    (spec,) = prepare(suite, methods=["sat"])
    RunFolder(tmp_path / "copy" / spec.folder).verdicts.unlink()
    (item,) = forecast([spec], tmp_path / "copy")
    assert (item.state, item.seconds) == ("trained", 3.0)


def test_a_training_in_progress_is_what_is_left_of_it(suite, results, tmp_path):
    (spec,) = prepare(suite, methods=["sat"], seeds=[5])

    def stop(stage: str, done: int, *_: object) -> None:
        if (stage, done) == ("train", 1):
            raise KeyboardInterrupt

    shutil.copytree(results, tmp_path / "copy")
    with pytest.raises(KeyboardInterrupt):
        execute(spec, tmp_path / "copy", progress=stop)
    (item,) = forecast([spec], tmp_path / "copy")
    assert (item.state, item.seconds) == ("epoch 1 of 2", 3.0 + 3.0)


def test_a_damaged_run_is_to_do(suite, results, tmp_path):
    shutil.copytree(results, tmp_path / "copy")
    (spec,) = prepare(suite, methods=["sat"])
    RunFolder(tmp_path / "copy" / spec.folder).run.write_text("{")
    (item,) = forecast([spec], tmp_path / "copy")
    assert (item.state, item.seconds) == ("to do", None)


def _chain(suite: str) -> list[RunSpec]:
    return prepare(suite, methods=["absld"], seeds=[0, 1, 2])


@pytest.mark.parametrize(("jobs", "seconds"), [(1, 340.0), (2, 240.0), (3, 140.0), (9, 140.0)])
def test_the_span_by_hand(suite, jobs, seconds):
    # the teacher takes 40 s and its three students 100 s each
    specs = _chain(suite)
    items = [Forecast(spec, "to do", 40.0 if spec.role == "teacher" else 100.0) for spec in specs]
    assert span(items, jobs) == seconds


def test_the_table_has_a_row_a_run_in_order_and_the_sum(suite):
    states = [("done", 0.0), ("epoch 3 of 40", 1800.0), ("to do", 3600.0), ("to do", None)]
    items = [Forecast(spec, *state) for spec, state in zip(_chain(suite), states, strict=True)]
    assert render(items, jobs=2).splitlines() == [
        "  1  teacher seed 0  done           0.000 h",
        "  2  absld seed 0    epoch 3 of 40  0.500 h",
        "  3  absld seed 1    to do          1.000 h",
        "  4  absld seed 2    to do          not measured",
        "",
        "4 runs, 1 of them done; 1.500 h of work measured, 1.000 h with 2 side by side",
        "1 not measured: no run of that method has finished with this model, data and recipe",
    ]


def test_nothing_is_written(suite, results):
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    render(forecast(prepare(suite), results), jobs=1)
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before
