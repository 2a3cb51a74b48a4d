"""Every command that prints a table or a list: at 60, 80 and 120 columns, without colours, in ASCII, in a pipe."""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairbench import gate
from fairbench.cli import app
from fairbench.evaluation.report import Report
from fairbench.evaluation.verdicts import Flag, Verdicts
from fairbench.leaderboard import comparison, merge
from fairbench.leaderboard.lookup import find_board
from fairbench.report.text import board
from fairbench.report.text.audit import render_report
from fairbench.report.text.board import shown_after_a_run

# The commands by name; the gate finds a regression, which is exit code 1.
SHOWN = {
    "board": "leaderboard show digits",
    "classes": "leaderboard show digits --classes",
    "cost": "leaderboard show digits --cost",
    "attacks": "leaderboard show digits --attack all",
    "papers": "leaderboard show zoo-small --papers",
    "compare": "leaderboard compare absld rslad digits",
    "row": "show absld/0 --board digits",
    "gate": "check --baseline digits --candidate digits --methods sat=rslad --seeds 0",
    "trials": "tune digits --show",
    "plan": "run digits --methods sat,trades,absld --seeds 0,1 --dry-run",
    "trials to come": "tune digits --methods sat,absld --dry-run",
    "doctor": "doctor",
    "explain": "explain",
    "method": "methods show absld",
    **{name: name for name in ("methods", "policies", "datasets", "suites", "models", "attacks", "loggers")},
}
# Words that no line break may divide: paths, commands to copy, and hashes.
WHOLE = re.compile(r"\S*/\S*|`[^`]*`|Next: .*|[0-9a-f]{12,}|\S*[=;]\S*")


class Stream(io.StringIO):
    """Standard output with an encoding; a terminal, or a pipe."""

    def __init__(self, encoding: str, terminal: bool) -> None:
        super().__init__()
        self._encoding, self._terminal = encoding, terminal

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return self._terminal


def _audit() -> None:
    """Print the report of an evaluation with the attacks of the digits suite."""
    attacks = ("clean", "fgsm", "pgd-20", "pgd-20:rel_step=0.25", "cw-30", "autoattack-fast")
    labels = np.repeat(np.arange(10), 5)
    verdicts = {attack: np.where(np.arange(50) % 7 < number, 0, labels) for number, attack in enumerate(attacks)}
    names = tuple(f"class {number}" for number in range(10))
    print(render_report(Report(Verdicts(labels, verdicts, 10), names, {"bad-gradient": Flag(0.5, True)})))


PRINTED: dict[str, Callable[[], None]] = {
    "the end of a run": lambda: print(shown_after_a_run(find_board("digits", Path()))),
    "evaluate": _audit,
}


# What commands compute before they lay it out, which no terminal changes.
COMPUTED = [(merge, "merged"), (board, "ranking"), (board, "oracle"), (comparison, "compare_rows"), (gate, "check")]


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes each result once and returns a new copy of it for equal arguments.

    It computes without a standard output, so that a result which depends on the terminal's width is an error.
    """
    known: dict[bytes, bytes] = {}

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        key = pickle.dumps((args, options))
        if key not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "stdout", object())
                known[key] = pickle.dumps(function(*args, **options))
        return pickle.loads(known[key])

    return call


@pytest.fixture(scope="module", autouse=True)
def _computed_once() -> Iterator[None]:
    """Rankings, comparisons and the gate's outcome are computed once for all terminals of this module."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in COMPUTED:
            patch.setattr(module, name, remembered(getattr(module, name)))
        yield


@pytest.fixture
def printed(monkeypatch, tmp_path) -> Callable[..., str]:
    """Call a command of SHOWN or PRINTED with a stream for its output, and return what it printed."""

    def call(
        name: str, columns: int = 80, *, encoding: str = "utf-8", terminal: bool = True, kind: str = "xterm-256color"
    ) -> str:
        stream = Stream(encoding, terminal)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", kind)
        monkeypatch.setattr(sys, "stdout", stream)
        if name in PRINTED:
            PRINTED[name]()
        else:
            assert app(SHOWN[name].split(), standalone_mode=False) in (None, 0, 1)
        return stream.getvalue()

    return call


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("name", [*SHOWN, *PRINTED])
def test_a_terminal_gets_lines_that_fit_and_no_name_is_cut(name, columns, printed):
    lines = re.sub(r"\x1b\[[0-9;]*m", "", printed(name, columns)).splitlines()
    assert len(lines) > 2
    assert [line for line in lines if len(line) > columns and not WHOLE.search(line)] == []
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize("name", [*SHOWN, *PRINTED])
def test_a_pipe_gets_no_escape_sequence_and_all_columns(name, printed):
    text = printed(name, 60, terminal=False)
    assert "\x1b" not in text
    assert "Not shown, because the terminal is too narrow" not in text


def test_a_dumb_terminal_is_as_wide_as_it_says(printed):
    usual, dumb = (re.sub(r"\x1b\[[0-9;]*m", "", printed("board", 120, kind=kind)) for kind in ("xterm", "dumb"))
    assert [line.rstrip() for line in dumb.splitlines()] == [line.rstrip() for line in usual.splitlines()]
    assert max(map(len, dumb.splitlines())) > 100


def test_the_board_says_who_leads_and_a_comparison_keeps_its_intervals_at_80_columns(printed):
    assert re.search(r"^\S+ leads: worst class ", printed("board"), flags=re.MULTILINE)
    assert "leads: worst class" not in printed("cost")
    compared = printed("compare")
    assert len(re.findall(r"\[[-+]\d+[.]\d, [-+]\d+[.]\d\]", compared)) == 12  # none on two lines


@pytest.mark.parametrize("name", [*SHOWN, *PRINTED])
def test_ascii_and_no_color_are_respected(name, printed, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(name, encoding="ascii")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", text)
    assert not re.search("[─-╿±×–]", text)  # the lines of boxes, and what has a replacement
