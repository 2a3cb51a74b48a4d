"""`fairbench check` as a user calls it: exit codes, outputs, refusals."""

from __future__ import annotations

import json
import signal
import sys

import pytest
from fabricated import store, verdicts

from fairbench import cli
from fairbench.leaderboard import builder


@pytest.fixture
def fairbench(monkeypatch, capsys):
    """Return `fairbench(*arguments) -> (code, stdout, stderr)`: the command line in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fairbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Boards with verdicts beside them: the baseline, one that is as good, one that is worse."""
    root = tmp_path_factory.mktemp("check")
    boards = {}
    for name, right in (("before", (450, 700)), ("same", (452, 698)), ("worse", (380, 700))):
        labels, predicted = verdicts(right, 1000)
        store(root / name / "results", labels, {"clean": predicted})
        (boards[name],) = builder.build(root / name / "results", root / name / "leaderboards", "tiny")
    return boards


def test_no_regression_is_0_and_a_regression_1(fairbench, sides):
    code, out, err = fairbench("check", "--baseline", sides["before"], "--candidate", sides["same"])
    assert (code, err) == (0, "")
    assert out.startswith("fairness gate: passed, no regression in 1 check\n")
    code, out, err = fairbench("check", "--baseline", sides["before"], "--candidate", sides["worse"])
    assert (code, err) == (1, "")
    assert out.startswith("fairness gate: FAILED, 1 of 1 checks regressed\n")


def test_the_tolerance_is_in_points(fairbench, sides):
    both = ("check", "--baseline", sides["before"], "--candidate", sides["worse"])
    assert fairbench(*both, "--max-drop", "8")[0] == 0
    assert fairbench(*both, "--max-drop", "0")[0] == 1


def test_formats(fairbench, sides):
    both = ("check", "--baseline", sides["before"], "--candidate", sides["worse"], "--metric", "worst,average,class")
    code, out, _ = fairbench(*both, "--format", "json")
    found = json.loads(out)
    assert (code, found["passed"]) == (1, False)
    assert [one["figure"] for one in found["checks"]] == [
        "worst class (class-0)", "average", "class class-0", "class class-1"
    ]  # fmt: skip
    code, out, _ = fairbench(*both, "--format", "markdown")
    assert code == 1
    assert out.splitlines()[3].startswith("| --- | --- | ---: |")


def test_a_board_too_small_shows_what_it_found_and_is_2(fairbench, sides):
    for candidate in ("same", "worse"):
        both = ("check", "--baseline", sides["before"], "--candidate", sides[candidate])
        code, out, err = fairbench(*both, "--require-mde", "0.5")
        assert code == 2
        assert out.startswith("fairness gate: ")
        assert err.startswith("fairbench: too small to decide: sat seed 0, worst class (class-0): ")
        assert err.count("\n") == 1
    assert fairbench(*both, "--require-mde", "50")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--candidate", "nowhere.csv"), "nowhere.csv: no leaderboard CSV"),
        (("--candidate", "BOARD", "--metric", "best"), "metric must be of worst, average, class, not 'best'"),
        (("--candidate", "BOARD", "--metric", ","), "expected comma-separated names, got ','"),
        (("--candidate", "BOARD", "--attack", "claen"), "did you mean 'clean'?"),
        (("--candidate", "BOARD", "--max-drop", "-1"), "'--max-drop'"),
        (("--candidate", "BOARD", "--max-drop", "nan"), "'--max-drop'"),
        (("--candidate", "BOARD", "--alpha", "1"), "alpha 1"),
        (("--candidate", "BOARD", "--methods", "sax"), "unknown method of the baseline 'sax'; did you mean 'sat'?"),
        (("--candidate", "BOARD", "--unit", "method"), "sat: 1 seeds; the unit 'method' needs 3"),
        (("--candidate", "BOARD", "--format", "xml"), "'--format'"),
        ((), "'--candidate'"),
    ],
)
def test_bad_input_is_2_and_one_line(fairbench, sides, arguments, message):
    given = [sides["same"] if word == "BOARD" else word for word in arguments]
    code, out, err = fairbench("check", "--baseline", sides["before"], *given)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_another_protocol_is_2(fairbench, sides, tmp_path):
    labels, predicted = verdicts((450, 700), 1000)
    store(tmp_path, labels, {"clean": predicted}, protocol="a2")
    code, _, err = fairbench("check", "--baseline", sides["before"], "--candidate", tmp_path)
    assert code == 2
    assert "figures of two protocols cannot be compared" in err
