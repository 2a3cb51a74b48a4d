"""The comparisons of the gate without statistics: flags and costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from entries import entry

from fairbench.errors import InvalidInput
from fairbench.gate.decision import check


@pytest.mark.parametrize(
    ("before", "now", "failed"),
    [
        (frozenset(), frozenset({"bad-gradient"}), True),
        (None, frozenset({"bad-gradient"}), True),
        (frozenset({"small-n"}), frozenset({"small-n", "bad-gradient"}), True),
        (frozenset({"small-n"}), frozenset({"small-n"}), False),
        (frozenset({"small-n"}), frozenset(), False),
    ],
)
def test_flags_that_turned_red_fail(before, now, failed):
    outcome = check([entry(flags=before)], [entry(flags=now)])
    (found,) = outcome.findings
    assert outcome.passed is not failed
    assert (found.figure, found.failed) == ("flags", failed)


def test_green_flags_are_no_findings_and_unchecked_flags_are_no_pass():
    assert check([entry(flags=frozenset())], [entry(flags=frozenset())]).findings == ()
    assert "the sanity checks, whose red flags fail the gate, ran on neither side" in check([entry()], [entry()]).notes
    said = "a red flag that the baseline lacks fails the gate without a test; alpha does not cover it"
    assert said in check([entry(flags=frozenset())], [entry(flags=frozenset())]).notes
    with pytest.raises(InvalidInput, match="flags were checked on the baseline, not on the candidate"):
        check([entry(flags=frozenset())], [entry()])


def test_costs_beyond_the_slowdown_fail():
    before = entry(costs={"train_seconds": 10.0, "flops": 1000.0}, hardware="cpu")
    slower = entry(costs={"train_seconds": 16.0, "flops": 1000.0}, hardware="cpu")
    assert check([before], [slower]).passed
    outcome = check([before], [slower], max_slowdown=1.5)
    assert [(found.figure, found.failed) for found in outcome.findings] == [("train_seconds", True), ("flops", False)]
    assert not outcome.passed
    assert check([before], [slower], max_slowdown=1.6).passed
    for other, words in (
        (replace(slower, hardware="cuda"), "measured on cpu, now on cuda"),
        (
            replace(slower, costs={"flops": 1.0}),
            "no train_seconds on the candidate to compare; runs and leaderboards have it",
        ),
    ):
        with pytest.raises(InvalidInput, match=words):
            check([before], [other], max_slowdown=1.5)
    with pytest.raises(InvalidInput, match="positive factor up to 1e9, not 0"):
        check([before], [slower], max_slowdown=0)
