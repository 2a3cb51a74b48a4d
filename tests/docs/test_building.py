"""Generated pages: every public name, command, column and method is there, and formulas become what browsers draw."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the documentation site needs pip install -e '.[docs]'")
pytest.importorskip("latex2mathml", reason="the documentation site needs pip install -e '.[docs]'")

from building import columns, commands, links, markdown, methods, python, streams, suites
from latex2mathml.converter import convert
from typer.main import get_command

import fairbench
from fairbench import registry
from fairbench.authoring.catalogue import PROVENANCE, describe_name
from fairbench.cli import app
from fairbench.leaderboard import columns as declared
from fairbench.leaderboard import headings
from fairbench.report.html.boards import read_board
from fairbench.suites.suite import suite_paths

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "leaderboards" / "digits" / "v3.csv"


def test_the_reference_of_python_has_every_public_name_once():
    found = re.findall(r"auto(?:class|exception|function|data):: fairbench\.(\w+)$", python.page(), re.MULTILINE)
    assert sorted(found) == sorted(set(fairbench.__all__) - {"__version__"})


def test_the_reference_of_the_command_line_has_every_command():
    def names(command, path):
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from names(child, f"{path} {name}")

    page = commands.page()
    found = set(re.findall(r"^#+ `(.+)`$", page, flags=re.MULTILINE))
    assert found == set(names(get_command(app), "fairbench")) - {"fairbench"}
    assert "&#" not in page


def test_the_reference_of_columns_has_every_column_and_heading():
    first = re.findall(r"^\| (.+?) \|", columns.page(), flags=re.MULTILINE)
    for name in (*declared.COLUMNS, *declared.OPTIONAL, "class_0", "n_class_0"):
        assert f"`{name}`" in first
    assert set(headings.HEADINGS) <= set(first)


def test_the_reference_of_suites_has_every_suite():
    assert set(re.findall(r"^\| `(.+?)` \|", suites.page(), flags=re.MULTILINE)) == set(suite_paths())


def test_objectives_has_a_section_for_every_base_and_every_policy_and_for_nothing_else():
    bases = {describe_name(registry.methods, name)["base"] for name in registry.methods.names()}
    assert set(methods.sections()) == bases | set(registry.policies.names())


@pytest.mark.parametrize("page", ["objectives.md", "protocol.md"])
def test_formulas_become_mathml_without_a_command_left_over(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(r"\$\$(.+?)\$\$|(?<!\$)\$([^$]+?)\$(?!\$)", text, flags=re.DOTALL)
    assert found
    for display, inline in found:
        assert "\\" not in convert(display or inline), display or inline


def test_a_method_has_its_source_formula_departures_settings_rows_and_bibtex():
    page = methods.page(describe_name(registry.methods, "dafa"), [read_board(BOARD)]).replace("\u00a0", " ")
    assert "(https://arxiv.org/abs/2401.12532)" in page
    assert PROVENANCE["code"] in page
    for part in ("trades", "dafa_weights", "dafa_margins"):
        assert methods.formula(part) in page
    assert "- Ties between classes change no weight" in page
    assert "| `dafa.lam` | float | 1 |" in page
    board = '<a href="../../boards/digits-v3/dafa.html">digits v3</a>'
    assert f"| {board} | 1 [1, 12] | 3 | 46.1 ± 5.3 | 24.7 ± 5.0 | 8, 2 | 29.5 [12.6, 45.9] |" in page
    assert "@inproceedings{" in page


def test_a_row_without_a_rank_and_a_row_of_one_run_say_so():
    page = methods.standing("teacher", [read_board(BOARD)]).replace("\u00a0", " ")
    assert "| not ranked | 1 | 49.4 [44.9, 53.9] | 18.0 [5.9, 37.4] |" in page
    assert methods.standing("nobody", [read_board(BOARD)]) == "No committed board has this method."


def test_links_follow_a_page_that_moves():
    text = "[a](docs/x.md#part) [b](https://example.org) [c](SECURITY.md) [d](#here)\n```\n[e](docs/x.md)\n```\n"
    moved = links.relinked(text, ROOT / "CONTRIBUTING.md", ROOT / "docs" / "generated" / "repository" / "page.md")
    assert moved == (
        "[a](../../x.md#part) [b](https://example.org) [c](security.md) [d](#here)\n```\n[e](docs/x.md)\n```\n"
    )
    at_home = ROOT / "docs" / "index.md"
    assert links.relinked("[c](../SECURITY.md)", at_home, at_home) == "[c](generated/repository/security.md)"
    assert links.relinked("[c](../leaderboards)", at_home, at_home) == "[c](generated/boards.md)"


def test_plain_text_is_escaped_and_code_is_not():
    assert markdown.escaped("a_b *c* `d_e` <f>") == r"a\_b \*c\* `d_e` \<f\>"
    assert markdown.table(["a"], [["x | y"]]) == "| a |\n| --- |\n| x \\| y |\n"


def test_docstrings_become_restructuredtext():
    lines = ["Read `x_` of *args, a|b and name_ here."]
    python.to_rst(None, "", "", None, None, lines)
    assert lines == ["Read ``x_`` of \\*args, a\\|b and name\\_ here."]


def test_signatures_have_the_annotations_of_the_source():
    def method(self, path: str | Path, *, limit: int | None = None) -> registry.Entry:
        """Only its signature is read."""

    written = python.readable(None, "method", "", method, None, "(path, limit)", None)
    assert written == ("(path: str | Path, *, limit: int | None = None)", "registry.Entry")
    assert python.readable(None, "data", "", 1, None, None, None) is None


def test_pieces_of_a_stream_are_put_together_as_they_are():
    pieces = [("stdout", "a | "), ("stderr", "50 %"), ("stdout", "b\n"), ("stdout", "c\n")]
    outputs = [{"output_type": "stream", "name": name, "text": text} for name, text in pieces]
    picture = {"output_type": "display_data"}
    assert streams.merged([*outputs[:2], picture, *outputs[2:]]) == [
        {"output_type": "stream", "name": "stdout", "text": "a | b\nc\n"},
        {"output_type": "stream", "name": "stderr", "text": "50 %"},
        picture,
    ]
