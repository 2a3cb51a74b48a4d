"""The trials of a tuning as a table: every setting with its score and standard error, and which one was chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from fairbench.errors import Missing, UnknownName
from fairbench.registry import datasets
from fairbench.report.text.sheet import Sheet, plain_columns
from fairbench.run.tuning.scores import score_over_seeds
from fairbench.run.tuning.table import TrialRow, read_table, table_path
from fairbench.suites.chosen import Choice, find_chosen
from fairbench.suites.suite import PREREQUISITES, load_suite

__all__ = ["render_trials", "setting_text"]

HEADINGS = ("method", "setting", "seeds", "score", "average", "worst", "n", "chosen")
NUMERIC = {"seeds", "score", "average", "worst", "n"}
# Columns in the order in which a narrow terminal drops them. Method, setting, score and the choice always stay.
DROPPED = ("n", "seeds", "average", "worst")
# A training with an average below so many times that of guessing has failed; the number of classes if none is stated.
COLLAPSED = 2.5
CLASSES = 10


def render_trials(name: str, root: Path, methods: Sequence[str] | None = None) -> str:
    """Return the scores of a suite's finished trials below `root` as text, or those of some methods.

    Of several budgets those of the chosen settings' budget. Without a table of trials the chosen settings that the
    package ships are shown. Settings and methods whose average robust accuracy is below `COLLAPSED` times that of
    guessing are marked. Raises Missing where there is neither a table nor a shipped file, UnknownName for a method
    without a trial.
    """
    suite = load_suite(name)
    owner = load_suite(suite.tuned_on) if suite.tuned_on else suite
    path, tuned = table_path(root, owner.name, owner.version), find_chosen(name, suite, root)
    choices: dict[str, Choice] = {}
    for source in reversed(tuned.sources):
        choices |= {need.replace("_", "-"): choice for need, choice in source.chosen.prerequisites.items()}
        choices |= source.chosen.methods
    rows = read_table(path) if path.exists() else []
    if not rows and not choices:
        raise Missing(f"{path}: no trials of {owner.name}; `fairbench tune {owner.name}` makes some")
    known = dict.fromkeys([*(row.method for row in rows), *choices])
    for method in methods or ():
        if method not in known and method != "all":
            raise UnknownName("tuned method", method, known)
    classes = _classes(owner.data.name)
    least = COLLAPSED / (classes or CLASSES)
    roles = [need.replace("_", "-") for need in PREREQUISITES]
    order = sorted(known, key=lambda label: (label not in roles, label))
    shown = [label for label in order if not methods or label in methods or "all" in methods]
    lines: list[tuple[str, ...]] = []
    hidden = 0
    for label in shown:
        every = [row for row in rows if row.method == label]
        own = _of_budget(every, choices.get(label))
        hidden += len(every) - len(own)
        lines += _trials(label, own, choices.get(label), least) if own else [_choice(label, choices[label], least)]
    failed = [label for label in shown if label in choices and choices[label].average < least]
    foot = [f"collapsed at the chosen setting: {', '.join(failed)}"] if failed else []
    foot += [f"rows of other budgets in the table, not shown: {hidden}"] if hidden else []
    foot += [str(path)] if rows else []
    foot += [source.label for source in tuned.sources]
    headings = [(heading, heading not in NUMERIC) for heading in HEADINGS]
    return "\n".join([plain_columns(Sheet("", headings, lines, [_note(classes)], DROPPED, "setting")), *foot])


def _classes(dataset: str) -> int | None:
    """The number of classes that the registration of a dataset states."""
    known = datasets.scan().get(dataset)
    stated = known.details.get("classes") if known else None
    return stated if isinstance(stated, int) and stated > 1 else None


def _note(classes: int | None) -> str:
    guessing = f"that of guessing among {classes or CLASSES} classes"
    guessing += "" if classes else " (the dataset does not state their number)"
    return (
        "score: mean of average and worst-class robust accuracy on held-out images over the last epochs, percent, with "
        f"its standard error (images and seeds); * chosen; collapsed: the average is below {COLLAPSED:g} times "
        f"{guessing}. A trial never sees a test image."
    )


def _of_budget(rows: Sequence[TrialRow], choice: Choice | None) -> list[TrialRow]:
    """A method's rows of the budget of its chosen settings; all where there are none of it."""
    return [row for row in rows if choice is not None and row.budget == choice.budget] or list(rows)


def _trials(label: str, rows: Sequence[TrialRow], choice: Choice | None, least: float) -> list[tuple[str, ...]]:
    """The rows of a method's settings: the best first, diverged ones last."""
    found = []
    ordered = sorted(rows, key=lambda row: (row.budget, row.recipe, row.options, row.trial))
    for (_, recipe, options), group in groupby(ordered, key=lambda row: (row.budget, row.recipe, row.options)):
        trials = list(group)
        scored = [row for row in trials if row.score is not None]
        tried = json.loads(recipe), json.loads(options)
        own = choice is not None and (dict(choice.recipe), dict(choice.options)) == tried
        setting = setting_text(*tried)
        if not scored:
            found.append((0.0, (label, setting, str(len(trials)), "diverged", "", "", "", "")))
            continue
        value, error = score_over_seeds([row.score or 0.0 for row in scored], [row.score_se or 0.0 for row in scored])
        average = sum(row.average or 0.0 for row in scored) / len(scored)
        worst = sum(row.worst or 0.0 for row in scored) / len(scored)
        figures = (_with_error(value, error), _percent(average), _percent(worst), str(scored[0].n))
        found.append((value, (label, setting, str(len(trials)), *figures, _mark(own, average < least))))
    return [line for _, line in sorted(found, key=lambda pair: -pair[0])]


def _choice(label: str, choice: Choice, least: float) -> tuple[str, ...]:
    figures = (_with_error(choice.score, choice.score_se), _percent(choice.average), _percent(choice.worst))
    return (
        label,
        setting_text(choice.recipe, choice.options),
        str(choice.seeds),
        *figures,
        "",
        _mark(True, choice.average < least),
    )


def _mark(chosen: bool, collapsed: bool) -> str:
    return " ".join(["*"] * chosen + ["collapsed"] * collapsed)


def setting_text(recipe: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Write what a trial tries: its part of the recipe, and hyper-parameters by their last name."""
    named = {**recipe, **{key.rpartition(".")[2]: value for key, value in options.items()}}
    return ", ".join(f"{key} {value}" for key, value in named.items())


def _with_error(value: float, error: float) -> str:
    return f"{100 * value:.1f} ± {100 * error:.1f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
