"""README.md and the pages below docs/: their code runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from typer.main import get_command

import fairbench
from fairbench import authoring, registry
from fairbench.cli import app
from fairbench.data import load_dataset

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(path for path in (ROOT / "docs").glob("**/*.md") if path.relative_to(ROOT).parts[1] != "generated"),
    ROOT / "tests" / "benchmarks" / "README.md",
]
MAIN_JOB = "python3 -m venv .venv && . .venv/bin/activate && pip install -e . && fairbench run digits"
TESTS = "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[test]' && python -m pytest -n 2"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(text: str) -> list[str]:
    """The fairbench commands of indented blocks, without their comments."""
    found = re.findall(r"^    (?:.*&& )?(fairbench [a-z].*)$", text, flags=re.MULTILINE)
    return [re.split(r"\s{2,}|\s+#", line)[0] for line in found]


def anchor(heading: str) -> str:
    """The fragment that a heading of Markdown gets."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_the_readme_has_at_most_700_words():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700


def test_runs_that_pages_compare_stand_on_the_newest_board():
    """Those of earlier boards may have a worst class of 0 %, from which no gate finds a drop."""
    board = fairbench.load_leaderboard("digits")
    named = {run for page in PAGES for run in re.findall(r"results/digits/\w+/([0-9a-f]{12})", page.read_text("utf-8"))}
    assert named
    assert named <= set(board["run_id"].dropna())


def test_the_two_commands_of_the_readme_stand_alone_on_their_lines():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert f"    {MAIN_JOB}" in lines
    assert f"    {TESTS}" in lines


def test_the_method_in_the_docs_is_whole_short_and_keeps_every_contract(tmp_path):
    (method,) = blocks("docs/methods.md")
    assert method.count("\n") < 40
    plugin = tmp_path / "worst_first.py"
    plugin.write_text(method, encoding="utf-8")
    registry.add_plugin(plugin)
    findings = authoring.check_method("worst_first")
    assert findings
    assert [str(finding) for finding in findings if not finding.passed] == []


def test_the_dataset_in_the_docs_is_loaded_by_its_name(tmp_path):
    plugin = tmp_path / "stripes.py"
    plugin.write_text(blocks("docs/own-data.md")[-1], encoding="utf-8")
    registry.add_plugin(plugin)
    found = load_dataset("stripes")
    assert (found.num_classes, found.shape, len(found.train), len(found.test)) == (2, (1, 8, 8), 300, 100)


@pytest.mark.parametrize("page", ["README.md", "docs/evaluate.md"])
def test_the_evaluation_in_the_docs_runs(page):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images, labels = np.random.default_rng(0).random((40, 8, 8, 1), dtype=np.float32), np.arange(40) % 10
    names = {"fairbench": fairbench, "model": model, "images": images, "labels": labels}
    exec(compile(blocks(page)[0], page, "exec"), names)
    assert 0 <= names["report"].worst <= names["report"].average <= 1


def test_a_torchvision_model_is_evaluated_on_a_data_loader_in_five_lines():
    code = blocks("docs/evaluate.md")[1]
    assert len([line for line in code.splitlines() if line]) == 5
    names = {"dataset": TensorDataset(torch.rand(20, 3, 32, 32), torch.arange(20) % 10)}
    exec(compile(code, "docs/evaluate.md", "exec"), names)
    assert set(names["report"].verdicts) == {"clean", "fgsm"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_page_parses(page):
    found = commands(page.read_text(encoding="utf-8"))
    assert found or page.name != "README.md" or page.parent != ROOT
    for line in found:
        parse(shlex.split(line)[1:])


def parse(words: list[str]) -> None:
    """Follow a command to its leaf and parse its options there; click raises for those that do not exist."""
    command = get_command(app)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    if "..." not in words:
        command.make_context(command.name, list(words), resilient_parsing=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), f"{page}: {target}"
        if fragment:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert fragment in map(anchor, headings), f"{page}: {target}"


def test_the_index_names_every_page():
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)]+)\)", index.read_text("utf-8"))}
    missing = [page for page in PAGES if page.is_relative_to(index.parent) and page not in {*linked, index}]
    assert [page.name for page in missing] == []
