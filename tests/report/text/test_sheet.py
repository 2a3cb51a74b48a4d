from __future__ import annotations

import sys

import pytest
from terminals import Terminal

from fairbench.report.text.sheet import Sheet, latex, plain_columns, render_sheets, sheet_markdown, text

ODD = "a|b_c*<img src=x>[red]\\&%$#{}~^\n`x`"
SHEET = Sheet(
    "board_1", [("method", True), ("worst %", False)], [["sat", "30.0 ± 1.5"], [ODD, "1.20×"]], ["50 % of it"]
)


def test_markdown_is_a_table_that_names_cannot_break():
    assert sheet_markdown(SHEET).splitlines() == [
        "**board\\_1**",
        "",
        "| method | worst % |",
        "| :--- | ---: |",
        "| sat | 30.0 ± 1.5 |",
        r"| a\|b\_c\*\<img src=x\>\[red\]\\\&%\$\#\{\}\~^ \`x\` | 1.20× |",
        "",
        "50 % of it",
    ]


def test_latex_is_a_tabular_that_names_cannot_break():
    assert latex(SHEET).splitlines() == [
        "% board_1",
        "% 50 % of it",
        r"\begin{tabular}{lr}",
        r"  \toprule",
        r"  method & worst \% \\",
        r"  \midrule",
        r"  sat & 30.0 $\pm$ 1.5 \\",
        r"  a\textbar{}b\_c*\textless{}img src=x\textgreater{}[red]\textbackslash{}\&\%\$\#\{\}\textasciitilde{}"
        r"\textasciicircum{} `x` & 1.20$\times$ \\",
        r"  \bottomrule",
        r"\end{tabular}",
    ]


def test_a_terminal_shows_names_as_they_are():
    shown = text(SHEET)
    assert "<img src=x>[red]\\&%$#{}~^" in shown
    assert shown.splitlines()[-1] == "50 % of it"


def test_sheets_follow_one_another():
    assert render_sheets([SHEET, SHEET], "latex").count("tabular}{lr}") == 2


TRIALS = Sheet(
    "",
    [("method", True), ("setting", True), ("score", False), ("n", False)],
    [["sat", "lr 0.2, weight_decay 0.0005, ema 0.999", "41.5 ± 1.2", "500"], ["trades", "lr 0.1", "9.0 ± 0.5", "500"]],
    ["A note of several words that a narrow terminal breaks between two of them."],
    ("n",),
    "setting",
)


@pytest.mark.parametrize("columns", [36, 60, 80, 120])
def test_columns_fit_the_terminal_and_long_cells_go_on_below(columns, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = plain_columns(TRIALS).splitlines()
    assert max(map(len, lines)) <= columns
    words = " ".join(lines)
    for part in ("lr 0.2,", "weight_decay", "0.0005,", "ema", "0.999", "41.5 ± 1.2", "trades"):
        assert part in words
    assert ("Not shown" in words) == (columns == 36)
    assert (lines[2].split()[-1] == "500") == (columns > 36)


def test_a_pipe_gets_a_line_for_each_row():
    lines = plain_columns(TRIALS).splitlines()
    assert lines[2].split() == [
        "sat",
        "lr",
        "0.2,",
        "weight_decay",
        "0.0005,",
        "ema",
        "0.999",
        "41.5",
        "±",
        "1.2",
        "500",
    ]
    assert lines[-1] == TRIALS.notes[0]
