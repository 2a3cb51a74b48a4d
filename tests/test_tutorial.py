"""The walk through the four jobs: docs/tutorial.md is what docs/tutorial.py writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_scripts import doc_script

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def walk():
    return doc_script("tutorial")


def commands_of(page: str) -> list[str]:
    return re.findall(r"^\$ (.*)$", page, flags=re.MULTILINE)


def test_each_job_takes_fewer_than_ten_commands(walk):
    assert len(walk.JOBS) == 4
    assert all(0 < len(steps) < 10 for steps in walk.JOBS.values())


def test_the_page_is_of_these_commands_and_each_has_printed_something(walk):
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    steps = [step for steps in walk.JOBS.values() for step in steps]
    assert commands_of(page) == [step.command for step in steps]
    assert all(step.text in page for step in steps)
    blocks = re.findall(r"```console\n\$ [^\n]*\n(.*?)```", page, flags=re.DOTALL)
    assert all(block.strip() for block in blocks)
    assert len(blocks) == len(steps)
    assert "/tmp/" not in page


def test_a_command_that_ends_wrongly_ends_the_walk(walk, monkeypatch, tmp_path):
    monkeypatch.setattr(walk, "JOBS", {"0. Fail": (walk.Step("Fail.", "echo gone && exit 3"),)})
    with pytest.raises(SystemExit, match=r"exit code 3\ngone"):
        list(walk.transcript(tmp_path))


@pytest.mark.slow
def test_the_walk_works_from_an_empty_folder(walk, tmp_path):
    page = tmp_path / "page.md"
    done = subprocess.run(
        [sys.executable, str(DOCS / "tutorial.py"), str(page)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written = page.read_text(encoding="utf-8")
    assert commands_of(written) == [step.command for steps in walk.JOBS.values() for step in steps]
    assert re.search(r"fairness gate: (passed|failed)", written, flags=re.IGNORECASE)


@pytest.mark.slow
def test_a_plug_in_with_the_full_budget_is_ranked_among_the_committed_rows_by_three_commands(tmp_path):
    def call(*words: str) -> str:
        command = [sys.executable, "-m", "fairbench.cli", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    call("new-method", "mine")
    plugin = (tmp_path / "methods" / "mine.py").rename(tmp_path / "mine.py")
    asked = ("digits", "--methods", "mine", "--plugin", plugin.name)
    call("tune", *asked)
    ranked = call("run", *asked)
    assert re.search(r"^Yours: mine, rank \d+ of \d+: worst class \d", ranked, flags=re.MULTILINE)
    shown = json.loads(call("leaderboard", "show", "digits", "--format", "json"))["ranking"]
    ranks = {row["method"]: (row["rank"], row["whose"]) for row in shown if not row["role"]}
    assert ranks["mine"][0] is not None
    assert ranks["mine"][1] == "yours"
    assert ranks["frl"][0] is not None
    assert ranks["frl"][1] == "committed"
