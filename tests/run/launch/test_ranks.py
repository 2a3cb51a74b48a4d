"""Runs that several ranks share: the lines of rank 0, and the share of the whole that is done."""

from __future__ import annotations

from stored import run_spec

from fairbench.run.launch import ranks
from fairbench.run.launch.progress import LogLines, Total


def test_the_total_moves_with_the_runs_of_ranks(tmp_path, monkeypatch, capsys):
    specs = [run_spec("sat"), run_spec("trades")]
    total = Total({spec.title: [{"train": 10.0}] for spec in specs}, span=20.0)
    monkeypatch.setattr(ranks.distributed, "world", lambda: 2)
    monkeypatch.setattr(ranks.distributed, "tell", lambda message: None)
    monkeypatch.setattr(ranks, "execute_run", lambda spec, results, progress, say: progress("train", 1, 1, ""))
    ranks.launch_ranks(specs, tmp_path, jobs=None, launcher="local", view=LogLines(total))
    assert total.share == 1.0
    assert capsys.readouterr().err.startswith("2 ranks work on each run")
