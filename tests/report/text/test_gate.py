from __future__ import annotations

import json

import pytest

from fairbench.gate.decision import Check, Finding, Outcome
from fairbench.report.text.gate import as_dict, markdown, table

CHECKS = (
    Check("absld seed 0", "worst class (cat -> dog)", 0.45, 0.39, "paired", 0.00001, 0.0304, failed=True),
    Check("sat seed 0", "average", 0.5, 0.5125, "two-sample", 1.0, 0.0712),
)
FINDINGS = (Finding("sat seed 0", "flags", "none red", "bad-gradient", failed=True),)


def outcome(checks=CHECKS, findings=FINDINGS) -> Outcome:
    return Outcome(checks, findings, ("a note",), "union", 0.02, 0.05)


def test_the_table_is_one_with_its_verdict_first():
    lines = table(outcome()).splitlines()
    assert lines[0] == "fairness gate: FAILED, 2 of 3 checks regressed"
    assert lines[4].split() == [
        "absld",
        "seed",
        "0",
        "worst",
        "class",
        "(cat",
        "->",
        "dog)",
        "45.0",
        "39.0",
        "+6.0",
        "<0.0001",
        "3.0",
        "paired",
        "REGRESSION",
    ]
    assert lines[5].split() == [
        "sat",
        "seed",
        "0",
        "average",
        "50.0",
        "51.2",
        "-1.2",
        "1.0000",
        "7.1",
        "two-sample",
        "ok",
    ]
    assert lines[6].split() == ["sat", "seed", "0", "flags", "none", "red", "bad-gradient", "REGRESSION"]
    assert len({line.index(word) for line, word in zip(lines[4:7], ("REG", "ok", "REG"), strict=True)}) == 1
    assert lines[-1] == "a note"
    assert lines[-2] == "a true drop of 7.1 points would have been found in every row (power 80%)"


def test_a_pass_is_said_in_one_line():
    assert table(outcome(CHECKS[1:], ())).splitlines()[0] == "fairness gate: passed, no regression in 1 check"


def test_markdown_is_a_table_that_names_cannot_break():
    evil = Check("<img src=x>|@all\nx", "class `a`", 0.5, 0.5, "paired", 1.0, 1.0)
    lines = markdown(outcome((evil,), ())).splitlines()
    assert lines[0] == "### fairness gate: passed, no regression in 1 check"
    assert lines[2].count("|") == lines[3].count("|") == 10
    assert lines[4].startswith(r"| &lt;img src=x&gt;\|\@all x | class \`a\` | 50.0 | 50.0 | +0.0 | 1.0000 | none |")
    assert "- in some row no drop at all would have been found (power 80%)" in lines


def test_terminals_are_not_steered_by_names():
    evil = Check("\x1b[2J\rsat", "average", 0.5, 0.5, "paired", 1.0, 0.1)
    assert "\x1b" not in table(outcome((evil,), ()))
    assert "\r" not in table(outcome((evil,), ()))


def test_json_has_every_figure_as_a_fraction():
    found = json.loads(json.dumps(as_dict(outcome())))
    assert found["passed"] is False
    assert found["checks"][0] == {
        "name": "absld seed 0",
        "figure": "worst class (cat -> dog)",
        "baseline": 0.45,
        "candidate": 0.39,
        "drop": 0.06,
        "p": pytest.approx(1e-5),
        "detectable": 0.0304,
        "test": "paired",
        "failed": True,
    }
    assert found["findings"][0]["candidate"] == "bad-gradient"
    assert (found["max_drop"], found["alpha"], found["detectable"]) == (0.02, 0.05, 0.0712)
