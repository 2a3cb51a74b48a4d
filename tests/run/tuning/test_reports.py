"""What a tuning shows, plans and logs, and its command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tunings import copy_tuning, rows_of, settings

from fairbench.errors import UnknownName
from fairbench.run.tuning import render_plan, render_trials
from fairbench.run.tuning.table import table_path, write_table
from fairbench.suites.chosen import chosen_text, user_path
from fairbench.suites.suite import load_suite

LOGGER = """
from fairbench import Logger, register_logger

@register_logger("lines", summary="writes a line an epoch")
class Lines(Logger):
    def __init__(self, target):
        self.target = target

    def begin(self, training):
        self.name = f"{training.method} {training.seed}"

    def epoch(self, epoch, figures):
        with open(self.target, "a") as out:
            out.write(f"{self.name} {epoch}\\n")
"""


def test_show_prints_scores_with_standard_errors(tuned, suite):
    lines = render_trials(suite, tuned).splitlines()
    assert lines[0].split() == ["method", "setting", "seeds", "score", "average", "worst", "n", "chosen"]
    assert lines[2].split()[0] == "teacher"
    assert sum(line.removesuffix(" collapsed").endswith(" *") for line in lines) == 3
    assert all("±" in line for line in lines[2:] if line.startswith(("teacher", "sat", "absld")))
    only = render_trials(suite, tuned, ["sat"])
    assert "absld" not in only.partition("\n\n")[0]
    with pytest.raises(UnknownName, match=r"sta.*did you mean 'sat'"):
        render_trials(suite, tuned, ["sta"])


def test_show_marks_settings_and_methods_that_collapsed(tuned, suite, tmp_path):
    """The mark follows the average, for ten classes at exactly 25 %, and only a chosen setting marks its method."""
    root = copy_tuning(tuned, tmp_path)
    rows = rows_of(root, "sat")
    recipes = sorted({row.recipe for row in rows}, key=lambda text: json.loads(text)["lr"])
    low = {recipes[0]: 0.2499, recipes[1]: 0.25}
    write_table(table_path(root, "tiny", 1), [row.model_copy(update={"average": low[row.recipe]}) for row in rows])
    chosen = settings(root)
    for average, footer in ((0.25, False), (0.2499, True)):
        sat = chosen.methods["sat"].model_copy(update={"average": average})
        text = chosen_text(chosen.model_copy(update={"methods": {"sat": sat}}))
        user_path(root, "tiny", 1).write_text(text, encoding="utf-8")
        table, _, foot = render_trials(suite, root, ["sat"]).partition("\n\n")
        marked = {line.split()[2] for line in table.splitlines()[1:] if line.endswith("collapsed")}
        assert marked == {"0.05"}
        assert ("collapsed at the chosen setting: sat" in foot) == footer


def test_a_training_is_measured_by_guessing_among_the_classes_of_its_dataset():
    text = render_trials("cifar100-micro", Path(__file__).parents[3])
    assert "below 2.5 times that of guessing among 100 classes" in text
    assert "collapsed at" not in text


def test_the_command_tunes_and_shows(tuned, suite, tmp_path, fairbench):
    copy_tuning(tuned, tmp_path)
    words = ["tune", suite, "--methods", "sat", "--jobs", "1", "--out", str(tmp_path)]
    for arguments in (words, [*words, "--show"]):
        code, out, _ = fairbench(*arguments)
        assert code == 0
        assert out.startswith("method")


@pytest.mark.parametrize(
    ("words", "ranks", "message"),
    [
        (["--out", "memory://somewhere"], "1", "fairbench: --out memory://somewhere: tuning writes to a folder, not "),
        ([], "2", "fairbench: torchrun's ranks work on one run at a time: tune with --jobs or --launcher ray"),
        (["--show", "--dry-run"], "1", "fairbench: give --show or --dry-run, not both"),
        (["--log", "nowhere:x"], "1", "fairbench: unknown logger 'nowhere'"),
    ],
)
def test_what_the_command_refuses_is_one_line(suite, tmp_path, monkeypatch, fairbench, words, ranks, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", ranks)
    code, out, err = fairbench("tune", suite, *words)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(message)
    assert list(tmp_path.iterdir()) == []


def lines_of(suite: str, root: Path, **choice: Any) -> dict[str, str]:
    """The plan of a tuning: the state of the trials by method."""
    table = render_plan(suite, jobs=1, root=root, **choice).partition("\n\n")[0]
    return {line.split()[0]: line.partition("  ")[2].strip() for line in table.splitlines()}


def test_a_plan_counts_the_trials_that_are_finished_and_runs_nothing(tuned, suite, tmp_path, launched):
    fresh = tmp_path / "fresh"
    assert lines_of(suite, fresh) == dict.fromkeys(("teacher", "sat", "absld"), "0 of 4 trials finished  no estimate")
    assert render_plan(suite, jobs=1, root=fresh).splitlines()[-2:] == [
        "tiny v1: 12 of 12 trials to do, 1 at a time",
        "no estimate for 12 of the trials: no committed run has this network and dataset",
    ]
    assert lines_of(suite, tuned) == dict.fromkeys(("sat", "absld"), "4 of 4 trials finished")  # the teacher is frozen
    assert "trained with their chosen settings: teacher (done)" in render_plan(suite, jobs=1, root=tuned)
    root = copy_tuning(tuned, tmp_path / "part")
    write_table(table_path(root, "tiny", 1), [row for row in rows_of(root) if (row.method, row.trial) != ("sat", 1)])
    assert lines_of(suite, root)["sat"] == "1 of 4 trials finished  no estimate"  # later ones depend on the missing one
    assert lines_of(suite, root, trials=5, methods=["sat"]) == {"sat": "1 of 5 trials finished  no estimate"}
    assert launched == []
    assert not fresh.exists()


def test_the_estimate_of_a_tuning_is_that_of_its_trainings(suite, tmp_path, monkeypatch):
    """By hand: an epoch takes 2 minutes of the teacher, which has one, and 1 of a student, which has two; 4 trials."""
    from fairbench.run import forecast

    known = SimpleNamespace(epoch=lambda label: 120.0 if label == "teacher" else 60.0, start=0.0)
    monkeypatch.setattr(forecast, "shipped", lambda *_: known)
    plain = load_suite(suite)
    assert (plain.recipe.epochs, plain.teacher.recipe["epochs"], plain.tuning.trials) == (2, 1, 4)
    assert lines_of(suite, tmp_path) == {
        "teacher": "0 of 4 trials finished  about 8 min in turn",
        **dict.fromkeys(("sat", "absld"), "0 of 4 trials finished  about 8 min in turn"),
    }
    last = render_plan(suite, jobs=1, root=tmp_path).splitlines()[-1]
    assert last == "about 26 min (shipped costs of these methods, scaled to this machine)"  # the frozen teacher's 2
    assert render_plan(suite, jobs=2, root=tmp_path).splitlines()[-1].startswith("about 14 min")  # 13 runs of 2 minutes


def test_the_command_plans_and_logs(suite, tmp_path, monkeypatch, fairbench):
    words = ["tune", suite, "--methods", "sat", "--trials", "1", "--jobs", "1", "--out", str(tmp_path / "out")]
    code, out, _ = fairbench(*words, "--dry-run")
    assert (code, out.splitlines()[0]) == (0, "sat  0 of 1 trials finished  no estimate")
    assert not (tmp_path / "out").exists()
    plugin = tmp_path / "logger.py"
    plugin.write_text(LOGGER, encoding="utf-8")
    monkeypatch.setenv("FAIRBENCH_LOG", "")  # the command sets it, and the test's end takes that back
    log = ["--plugin", str(plugin), "--log", f"lines:{tmp_path / 'log.txt'}"]
    assert fairbench(*words, *log)[0] == 0
    assert (tmp_path / "log.txt").read_text() == "sat 1000 0\nsat 1000 1\n"
