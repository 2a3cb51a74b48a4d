"""The files that a tuning of the tiny suite leaves: read, copied, and written without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fairbench.data import load_dataset
from fairbench.run.benchmark import prepare_plan
from fairbench.run.tuning.table import TrialRow, read_table, table_path
from fairbench.suites.chosen import Choice, Chosen, chosen_text, user_path
from fairbench.suites.suite import load_suite

TUNING = {"lr": [0.05, 0.2], "trials": 4, "epochs": 2}


def choices(said: list[str]) -> list[str]:
    """The choices that a tuning reports, without the plan and the estimate of time before every group of runs."""
    left_out = ("tiny v1: ", "about ", "no estimate for ")
    return [line for line in said if not line.startswith(left_out) and ": trial" not in line]


def rows_of(root: Path, method: str | None = None) -> list[TrialRow]:
    rows = read_table(table_path(root, "tiny", 1))
    return [row for row in rows if method in (None, row.method)]


def settings(root: Path) -> Chosen:
    return Chosen.model_validate(yaml.safe_load(user_path(root, "tiny", 1).read_text()))


def timeless(root: Path) -> list[TrialRow]:
    return [row.model_copy(update={"train_seconds": 0.0}) for row in rows_of(root)]


def copy_tuning(root: Path, target: Path) -> Path:
    """The two files of a tuning, without the runs."""
    for path in (table_path(root, "tiny", 1), user_path(root, "tiny", 1)):
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return target


def entry(suite: str, root: Path, recipe: dict[str, Any], **changes: Any) -> Choice:
    """An entry as tuning writes it, without its trials."""
    chosen = load_suite(suite)
    needed = {"teacher": prepare_plan(suite, methods=["absld"], root=root)[0].frozen_id}
    budget = chosen.budget(load_dataset(chosen.data.name).hash, chosen.tuning.trials)
    figures = {"score": 0.5, "score_se": 0.1, "average": 0.6, "worst": 0.4}
    return Choice(**{"recipe": recipe, "trials": 4, "budget": budget, "prerequisites": needed, **figures, **changes})


def write(suite: str, root: Path, **methods: Choice) -> None:
    path = user_path(root, load_suite(suite).name, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(chosen_text(Chosen(suite=load_suite(suite).name, version=1, methods=methods)), encoding="utf-8")
