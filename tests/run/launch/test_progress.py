from __future__ import annotations

import io
import sys

import pytest

from fairbench.run.launch import progress
from fairbench.run.launch.progress import LogLines, progress_view


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_lines_show_each_stage_its_end_and_something_every_few_seconds(clock, capsys):
    row = LogLines().start("sat seed 0")
    for done in range(1, 11):
        clock.now += 1
        row.update("train", done, 10, f"loss {done}")
    row.update("evaluate", 1, 4, "")
    row.update("evaluate", 2, 4, "")
    row.update("evaluate", 4, 4, "")
    row.finish("done")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "sat seed 0: train 1/10 loss 1 (1 s)",
        "sat seed 0: train 6/10 loss 6 (6 s)",
        "sat seed 0: train 10/10 loss 10 (10 s)",
        "sat seed 0: evaluate 1/4 (10 s)",
        "sat seed 0: evaluate 4/4 (10 s)",
        "sat seed 0: done (10 s)",
    ]


def test_rows_do_not_share_their_stage_or_their_time(clock, capsys):
    view = LogLines()
    first = view.start("a")
    clock.now += 2
    second = view.start("b")
    for row in (first, second):
        row.update("train", 1, 9, "")
        row.update("train", 2, 9, "")
    assert capsys.readouterr().err.splitlines() == ["a: train 1/9 (2 s)", "b: train 1/9 (0 s)"]


def test_what_is_no_terminal_gets_lines(capsys):
    with progress_view() as view:
        assert isinstance(view, LogLines)
        view.start("a").finish("done")
    assert capsys.readouterr().err == "a: done (0 s)\n"


def test_a_terminal_gets_a_bar_per_run(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_view() as view:
        rows = [view.start("sat seed 0"), view.start("my[/x].safetensors")]
        rows[0].update("train", 3, 7, "loss 0.5")
        rows[1].finish("done")
    shown = sys.stderr.getvalue()
    for text in ("sat seed 0", "train", "3/7", "loss 0.5", "my[/x].safetensors", "1/1"):
        assert text in shown
