from __future__ import annotations

import sys

import pytest
from terminals import Terminal

from fairbench.run.launch import progress
from fairbench.run.launch.progress import LogLines, Total, progress_view


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
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_view() as view:
        rows = [view.start("sat seed 0"), view.start("my[/x].safetensors")]
        rows[0].update("train", 3, 7, "loss 0.5")
        rows[1].finish("done")
    shown = sys.stderr.getvalue()
    assert "total" not in shown
    for text in ("sat seed 0", "train", "3/7", "loss 0.5", "my[/x].safetensors", "1/1"):
        assert text in shown


def _work() -> Total:
    """Two runs: of 30 and 60 s in two stages, and of 10 s; with one job they take 100 s."""
    return Total({"a": [{"train": 30.0, "evaluate best/clean": 60.0}], "b": [{"train": 10.0}]}, span=100.0)


def test_the_total_weighs_stages_by_their_estimate_and_then_trusts_the_speed(clock):
    total = _work()
    assert (total.share, total.left, total.text()) == (0.0, 100.0, "0 %, about 2 min left")
    view = LogLines(total)
    first, second = view.start("a"), view.start("b")
    clock.now += 5
    first.update("train", 1, 6, "")
    assert (total.share, total.left) == (pytest.approx(0.05), pytest.approx(95.0))  # still the estimate
    clock.now += 35
    first.update("evaluate best/clean", 1, 2, "")
    second.finish("done")
    assert total.share == pytest.approx(0.3 + 0.3 + 0.1)
    assert total.left == pytest.approx(40 * 0.3 / 0.7)
    first.update("train", 1, 6, "")  # a share never falls
    assert total.share == pytest.approx(0.7)
    first.finish("done")
    assert (total.share, total.left, total.text()) == (pytest.approx(1.0), pytest.approx(0.0), "100 %")


def test_runs_without_an_estimate_count_as_the_mean_of_the_others():
    total = Total({"a": [{"train": 30.0}, {"train": 50.0}], "b": [{"train": None, "evaluate": 1.0}]})
    assert total.left is None
    view = LogLines(total)
    view.start("b").update("train", 1, 1, "")
    assert total.share == pytest.approx(40 / 120 / 2)
    view.start("a").finish("done")
    assert total.share == pytest.approx(20 / 120 + 30 / 120)
    view.start("unknown").finish("done")
    assert total.share == pytest.approx(50 / 120)


def test_log_lines_show_the_total_twice_a_minute(clock, capsys):
    row = LogLines(_work()).start("a")
    for done in range(1, 5):
        clock.now += 20
        row.update("train", done, 6, "")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("total: ")]
    assert said == ["total: 10 %, about 6 min left", "total: 20 %, about 5 min left"]


def test_a_terminal_shows_the_total_below_the_runs(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress_view(_work()) as view:
        view.start("a").update("train", 6, 6, "")
    shown = [line for line in sys.stderr.getvalue().splitlines() if line.strip()]
    assert max(index for index, line in enumerate(shown) if "total" in line) > max(
        index for index, line in enumerate(shown) if "train" in line
    )
    assert "30 %" in shown[-1] or "30 %" in shown[-2]
