from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from fairbench.results.folder import RunFolder
from fairbench.run import forecast as module
from fairbench.run.benchmark import prepare_plan
from fairbench.run.costs import Costs
from fairbench.run.forecast import Forecast, forecast, render_forecasts, span
from fairbench.run.launch.progress import duration
from fairbench.run.pipeline import execute_run
from fairbench.suites.spec import RunSpec


@pytest.fixture(scope="module")
def suite(make_suite, tmp_path_factory) -> str:
    return str(make_suite(tmp_path_factory.mktemp("suite"), methods=["sat", "absld"]))


@pytest.fixture(scope="module")
def results(suite, tmp_path_factory) -> Path:
    """Results in which the teacher and sat are done."""
    results = tmp_path_factory.mktemp("results")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for spec in prepare_plan(suite)[:2]:
        execute_run(spec, results)
    torch.set_num_threads(threads)
    return results


@pytest.fixture(autouse=True)
def _costs(tmp_path, monkeypatch):
    """The shipped costs, 3 s an epoch of sat and 4 s of the teacher, and 1 s an attack on the test set.

    Networks of width 8 have none.
    """
    monkeypatch.chdir(tmp_path)
    attacks = {"clean": 0.01, "pgd-10:rel_step=0.25": 0.01}
    found = Costs({"sat": 3.0, "teacher": 4.0}, attacks, images=100, classes=2)
    monkeypatch.setattr(module, "shipped", lambda spec: None if "width=8" in spec.model else found)


def _state(item: Forecast) -> tuple[str, int, str, float | None]:
    return item.spec.label, item.spec.seed, item.state, item.seconds


def test_costs_are_those_shipped_and_another_method_counts_as_their_median(suite, results):
    found = forecast(prepare_plan(suite, seeds=[0, 1]), results)
    assert [_state(item) for item in found] == [
        ("teacher", 0, "done", 0.0),
        ("sat", 0, "done", 0.0),
        ("sat", 1, "to do", 6.0 + 3.0),
        ("absld", 0, "to do", 2 * 3.5 + 3.0),
        ("absld", 1, "to do", 2 * 3.5 + 3.0),
    ]


def test_training_scales_with_epochs_and_an_unknown_network_has_no_estimate(suite, results):
    (longer,) = forecast(prepare_plan(suite, methods=["sat"], overrides={"recipe.epochs": 10}), results)
    assert longer.stages == {
        "start": 0.0,
        "train": 30.0,
        "evaluate best/clean": 1.0,
        "evaluate best/pgd-10:rel_step=0.25": 1.0,
        "evaluate last/clean": 1.0,
    }
    (wider,) = forecast(prepare_plan(suite, methods=["sat"], overrides={"model": "small-cnn:width=8"}), results)
    assert wider.seconds is None


def test_the_start_of_a_process_counts_for_every_run_that_is_left(suite, results, monkeypatch):
    found = Costs({"sat": 3.0}, {"clean": 0.01, "pgd-10:rel_step=0.25": 0.01}, images=100, classes=2, start=5.0)
    monkeypatch.setattr(module, "shipped", lambda *_: found)
    items = forecast(prepare_plan(suite, methods=["sat"], seeds=[0, 1]), results)
    assert [item.seconds for item in items] == [0.0, 5.0 + 6.0 + 3.0]


def test_fewer_test_images_cost_less(suite, results):
    (item,) = forecast(prepare_plan(suite, methods=["sat"], overrides={"data.test_per_class": 5}), results)
    assert item.stages["evaluate last/clean"] == pytest.approx(0.01 * 5 * 2)


def test_an_attack_without_verdicts_is_what_is_left(suite, results, tmp_path):
    more = {"evaluation.last": ["clean", "fgsm"]}
    (item,) = forecast(prepare_plan(suite, methods=["sat"], overrides=more), results)
    assert (item.state, item.seconds) == ("trained", None)
    shutil.copytree(results, tmp_path / "copy")
    (spec,) = prepare_plan(suite, methods=["sat"])
    RunFolder(tmp_path / "copy" / spec.folder).verdicts.unlink()
    (item,) = forecast([spec], tmp_path / "copy")
    assert (item.state, item.seconds) == ("trained", 3.0)


def test_a_training_in_progress_is_what_is_left_of_it(suite, results, tmp_path):
    (spec,) = prepare_plan(suite, methods=["sat"], seeds=[5])

    def stop(stage: str, done: int, *_: object) -> None:
        if (stage, done) == ("train", 1):
            raise KeyboardInterrupt

    shutil.copytree(results, tmp_path / "copy")
    with pytest.raises(KeyboardInterrupt):
        execute_run(spec, tmp_path / "copy", progress=stop)
    (item,) = forecast([spec], tmp_path / "copy")
    assert (item.state, item.seconds) == ("epoch 1 of 2", 3.0 + 3.0)


def test_a_damaged_run_is_to_do(suite, results, tmp_path):
    shutil.copytree(results, tmp_path / "copy")
    (spec,) = prepare_plan(suite, methods=["sat"])
    RunFolder(tmp_path / "copy" / spec.folder).run.write_text("{")
    (item,) = forecast([spec], tmp_path / "copy")
    assert (item.state, item.seconds) == ("to do", 9.0)


def _chain(suite: str) -> list[RunSpec]:
    return prepare_plan(suite, methods=["absld"], seeds=[0, 1, 2])


@pytest.mark.parametrize(("jobs", "seconds"), [(1, 340.0), (2, 240.0), (3, 140.0), (9, 140.0)])
def test_the_span_by_hand(suite, jobs, seconds):
    # the teacher takes 40 s and its three students 100 s each
    specs = _chain(suite)
    items = [Forecast(spec, "to do", {"train": 40.0 if spec.role == "teacher" else 100.0}) for spec in specs]
    assert span(items, jobs) == seconds


@pytest.mark.parametrize(("launcher", "time"), [("local", "about 60 min"), ("ray", "about 40 min")])
def test_more_jobs_than_cores_take_as_long_as_the_cores_need(suite, monkeypatch, launcher, time):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    items = [Forecast(spec, "to do", {"train": 1200.0}) for spec in _chain(suite)]
    said = render_forecasts(items, 16, launcher).splitlines()
    assert said[-2].endswith("0 done, 16 at a time")
    assert said[-1] == f"{time} (shipped costs of these methods, scaled to this machine)"


def test_the_table_has_a_row_a_run_in_order_and_the_sum(suite, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    states = [
        ("done", {}),
        ("epoch 3 of 40", {"train": 1800.0}),
        ("to do", {"train": 7200.0}),
        ("to do", {"train": None}),
    ]
    items = [Forecast(spec, *state) for spec, state in zip(_chain(suite), states, strict=True)]
    assert render_forecasts(items, jobs=2).splitlines() == [
        "  1  teacher seed 0  done",
        "  2  absld seed 0    epoch 3 of 40  about 30 min",
        "  3  absld seed 1    to do          about 2.0 h",
        "  4  absld seed 2    to do          no estimate",
        "",
        "tiny v1: 4 runs of teacher, absld; seeds 0, 1, 2; 1 done, 2 at a time",
        "about 2.0 h (shipped costs of these methods, scaled to this machine)",
        "no estimate for 1 of the runs: no committed run has this network, dataset and attacks",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_times_are_written_for_a_reader(seconds, text):
    assert duration(seconds) == text


def test_nothing_is_written(suite, results):
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    render_forecasts(forecast(prepare_plan(suite), results), jobs=1)
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before
