"""Clocks that jump: no result depends on the time of day."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

import pytest

from fairbench.leaderboard import builder
from fairbench.leaderboard.board import load_leaderboard
from fairbench.results.folder import RunFolder
from fairbench.run.pipeline import execute_run, is_done

MEASURED = ["train_seconds", "eval_seconds", "images_per_second", "peak_memory_mb", "created"]
DAY = 86400.0


@pytest.mark.parametrize("jump", [-400 * DAY, 400 * DAY])
def test_a_clock_that_jumps_while_a_run_works_changes_only_its_date(whole, tmp_path, bits, monkeypatch, jump):
    real, start, calls = time.time, time.time(), []

    def clock() -> float:
        calls.append(1)
        return real() + jump * (len(calls) % 2)

    class _Jumping(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(start + jump, UTC)

    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr("fairbench.results.provenance.datetime", _Jumping)
    record = execute_run(whole.spec, tmp_path / "results")
    assert bits(tmp_path) == bits(whole.root)
    assert record["cost"]["train_seconds"] > 0
    (board,) = builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", "tiny")
    frames = [load_leaderboard(path) for path in (board, whole.board)]
    assert set(frames[0]["created"]) != set(frames[1]["created"])
    same = [frame.drop(columns=MEASURED).to_csv() for frame in frames]
    assert same[0] == same[1]


def test_files_dated_in_the_future_or_long_ago_are_still_done(whole, tmp_path):
    execute_run(whole.spec, tmp_path)
    folder = RunFolder(tmp_path / whole.spec.folder)
    for number, path in enumerate(sorted(folder.path.iterdir())):
        date = time.time() + (-1) ** number * 400 * DAY
        os.utime(path, (date, date))
    assert is_done(whole.spec, folder)
