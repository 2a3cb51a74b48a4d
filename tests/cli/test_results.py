from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from committed import committed_run

from fairbench.cli.results import check_results_command
from fairbench.errors import InvalidInput


def test_every_run_folder_gets_a_line_and_one_that_is_refused_ends_with_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, weightless = committed_run("sat", 0, 4).path, committed_run("sat", 1, 4).path
    good, bad = Path("results/digits/sat") / run.name, Path("results/digits/trades") / run.name
    for copy in (good, bad):
        shutil.copytree(run, copy)
    check_results_command([good], full=False)
    told = "10 of 11 attacks run again, with the same verdicts (best/autoattack-fast: only with --full)"
    assert capsys.readouterr().out == f"{good}: ok, {told}\n"
    check_results_command([weightless], full=False)
    told = "0 of 11 attacks run again (no best.safetensors, no last.safetensors)"
    assert capsys.readouterr().out == f"{weightless}: ok, {told}\n"
    (bad / "notes.txt").touch()
    with pytest.raises(InvalidInput, match=r"^1 of 2 run folders cannot be added to the results$"):
        check_results_command([Path("results/digits")], full=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{good}: ok")
    assert second == f"{bad}: notes.txt is no file of a run: remove it"
    with pytest.raises(InvalidInput, match="is a URL"):
        check_results_command([Path("s3://bucket/results")], full=False)
