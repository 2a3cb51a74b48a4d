from __future__ import annotations

import json
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminals import Terminal

from fairbench.gate.checks import Check
from fairbench.gate.decision import Outcome
from fairbench.gate.flags_and_costs import Finding
from fairbench.report.text.gate import as_dict, gate_markdown, gate_table

CHECKS = (
    Check("absld seed 0", "worst class (cat -> dog)", 0.45, 0.39, "paired", 0.00001, 0.0304, failed=True),
    Check("sat seed 0", "average", 0.5, 0.5125, "two-sample", 1.0, 0.0712),
)
IDLE = Check("sat seed 0", "class cat", 0.0, 0.0, "paired", 1.0, math.inf, can_fail=False)
FINDINGS = (Finding("sat seed 0", "flags", "none red", "bad-gradient", failed=True),)


def outcome(checks=CHECKS, findings=FINDINGS, **fields) -> Outcome:
    known = {"compared": ("a and b",), "left_out": ("2 of 5",), "notes": ("a note",), "pin": "abc"}
    return Outcome(checks, findings, "union", 0.02, 0.05, **{**known, **fields})


def test_the_table_is_one_with_its_verdict_first():
    lines = gate_table(outcome()).splitlines()
    assert lines[0] == "fairness gate: FAILED, 2 of 3 checks regressed"
    assert lines[4].split("  ")[0] == "absld seed 0"
    assert lines[4].split()[3:] == (
        ["worst", "class", "(cat", "->", "dog)", "45.0", "39.0", "+6.0", "<0.0001", "3.0", "paired", "REGRESSION"]
    )
    assert lines[5].split()[3:] == ["average", "50.0", "51.2", "-1.2", "1.0000", "7.1", "two-sample", "ok"]
    assert lines[6].split() == ["sat", "seed", "0", "flags", "none", "red", "bad-gradient", "REGRESSION"]
    assert len({line.index(word) for line, word in zip(lines[4:7], ("REG", "ok", "REG"), strict=True)}) == 1


@pytest.mark.parametrize(("columns", "dropped"), [(60, "test, detectable, p, drop"), (80, "test"), (120, "")])
def test_the_table_fits_the_terminal_and_says_what_it_leaves_out(columns, dropped, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = gate_table(outcome()).splitlines()
    assert max(map(len, lines)) <= columns
    assert sum(line.endswith("REGRESSION") for line in lines) == 2
    text = " ".join(lines)
    assert ("Not shown" in text) == bool(dropped)
    assert f"too narrow: {dropped}" in text or not dropped


def test_words_say_what_was_compared_found_and_left_out():
    assert gate_table(outcome()).splitlines()[8:] == [
        "compared: a and b",
        "found: absld seed 0, worst class (cat -> dog) fell from 45.0 to 39.0 %",
        "found: sat seed 0, flags: none red -> bad-gradient",
        "left out: 2 of 5",
        "tested for each figure: that it fell by at most 2 points, one-sided, alpha 0.05 for all figures together; "
        "accuracies in percent, drops in points (negative: a gain)",
        "detectable with probability 80 %: a true drop of 7.1 points in every row",
        "pin of the baseline: abc",
        "a note",
    ]


def test_a_pass_is_said_in_one_line():
    lines = gate_table(outcome(CHECKS[1:], ())).splitlines()
    assert lines[0] == "fairness gate: passed, no regression in 1 check"
    assert "found: no figure fell by more than 2 points and more than chance explains" in lines


def test_what_cannot_fail_is_said_loudly():
    lines = gate_table(outcome((CHECKS[1], IDLE), ())).splitlines()
    assert lines[0] == "fairness gate: passed, no regression in 1 check, 1 more could NOT FAIL"
    assert lines[5].split()[-3:] == ["paired", "CANNOT", "FAIL"]
    assert "could not fail, because even a fall to 0 would pass: sat seed 0, class cat (0.0 %)" in lines
    assert "detectable with probability 80 %: no possible drop in 1 of 2 rows" in lines
    assert gate_table(outcome((IDLE,), ())).splitlines()[0] == "fairness gate: NO VERDICT, no check could fail"
    # A flag or a cost needs no test, so it fails although no figure could.
    assert gate_table(outcome((IDLE,))).splitlines()[0] == "fairness gate: FAILED, 1 of 2 checks regressed"


def test_long_lists_are_cut_and_counted():
    many = tuple(Check(f"sat seed {seed}", "average", 0.5, 0.4, "paired", 0.001, 0.1, failed=True) for seed in range(7))
    (line,) = [line for line in gate_table(outcome(many, ())).splitlines() if line.startswith("found: ")]
    assert line.count("fell from") == 5
    assert line.endswith("; and 2 more")


def test_markdown_shows_names_in_code():
    lines = gate_markdown(outcome()).splitlines()
    assert lines[0] == "### fairness gate: FAILED, 2 of 3 checks regressed"
    assert lines[4] == (
        "| `absld seed 0` | `worst class (cat -> dog)` | 45.0 | 39.0 | +6.0 | <0.0001 | 3.0 | `paired` | REGRESSION |"
    )
    assert lines[6] == "| `sat seed 0` | `flags` | `none red` | `bad-gradient` |  |  |  |  | REGRESSION |"
    assert "- `found: sat seed 0, flags: none red -> bad-gradient`" in lines
    assert "- a note" in lines


def test_markdown_is_a_table_that_names_cannot_break():
    evil = Check("<img src=x>|@all\nx", "class ``a`", 0.5, 0.5, "paired", 1.0, math.inf)
    lines = gate_markdown(outcome((evil,), ())).splitlines()
    assert lines[2].count("|") == lines[3].count("|") == 10
    assert lines[4].startswith(r"| `<img src=x>\|@all x` | ``` class ``a` ``` | 50.0 | 50.0 | +0.0 | 1.0000 | `none` |")


@pytest.mark.parametrize(
    "evil",
    [
        "@octocat", "see #12", "https://evil.example", "www.evil.example", "[x](javascript:y)", "![](//x)", "<b>x</b>",
        "GH-12", "a@b.example", "**bold**", "`code`", "~~x~~", "&lt;", "$x$", "a|b", ":+1: <!-- -->", "````",
    ],
)  # fmt: skip
def test_no_name_is_a_link_a_mention_or_markup_in_a_comment(evil):
    check = Check(evil, f"class {evil}", 0.5, 0.3, "paired", 0.001, 0.1, failed=True)
    shown = gate_markdown(
        outcome((check,), (Finding(evil, "flags", evil, evil, failed=True),), compared=(evil,), notes=(evil,))
    )
    for line in shown.splitlines():
        if line not in (f"### {line[4:]}", "") and not line.startswith("| ---"):
            assert evil.replace("|", r"\|") not in outside_code(line), line


@given(st.text(max_size=30))
def test_code_spans_hold_whatever_a_name_is(name):
    shown = gate_markdown(outcome((Check(name, "average", 0.5, 0.5, "paired", 1.0, 0.1),), (), notes=(name,)))
    for character in "<>[]@#&*":
        rest = [outside_code(line) for line in shown.splitlines()[4:]]
        assert not any(character in line.removesuffix(" ok |") for line in rest)
    assert len(shown.splitlines()) == len(gate_markdown(outcome(CHECKS[1:], ())).splitlines())


def outside_code(line: str) -> str:
    """Return a line without its code spans, as CommonMark reads them: between fences of equal length."""
    rest = ""
    while line:
        head, tick, tail = line.partition("`")
        rest += head
        fence = tick + tail[: len(tail) - len(tail.lstrip("`"))]
        tail = tail.lstrip("`")
        end = next((i for i in range(len(tail)) if _is_fence(tail, i, len(fence))), None)
        if not fence or end is None:
            return rest + tail
        line = tail[end + len(fence) :]
    return rest


def _is_fence(text: str, at: int, length: int) -> bool:
    before, after = text[at - 1 : at] if at else "", text[at + length : at + length + 1]
    return text[at : at + length] == "`" * length and before != "`" and after != "`"


def test_terminals_are_not_steered_by_names():
    evil = Check("\x1b[2J\rsat\u202e\x9b\ud800", "average", 0.5, 0.5, "paired", 1.0, 0.1)
    shown = gate_table(outcome((evil,), (), notes=("\x1b]0;x\x07",)))
    assert not set(shown) & set("\x1b\r\u202e\x9b\x07\ud800")
    shown.encode()


def test_json_has_every_figure_as_a_fraction():
    found = json.loads(json.dumps(as_dict(outcome((*CHECKS, IDLE))), allow_nan=False))
    assert found["passed"] is False
    assert found["checks"][0] == {
        "name": "absld seed 0",
        "figure": "worst class (cat -> dog)",
        "baseline": 0.45,
        "candidate": 0.39,
        "drop": 0.06,
        "p": pytest.approx(1e-5),
        "share": 1.0,
        "detectable": 0.0304,
        "test": "paired",
        "can_fail": True,
        "failed": True,
    }
    assert found["checks"][2]["detectable"] is None
    assert found["checks"][2]["can_fail"] is False
    assert found["findings"][0]["candidate"] == "bad-gradient"
    assert (found["max_drop"], found["alpha"], found["detectable"], found["pin"]) == (0.02, 0.05, None, "abc")
    assert (found["compared"], found["left_out"], found["notes"]) == (["a and b"], ["2 of 5"], ["a note"])
    assert as_dict(outcome((IDLE,), ()))["passed"] is False
