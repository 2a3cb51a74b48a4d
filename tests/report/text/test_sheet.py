from __future__ import annotations

from fairbench.report.text.sheet import Sheet, latex, render_sheets, sheet_markdown, text

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
