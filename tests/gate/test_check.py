"""`fairbench check` as a user calls it: exit codes, outputs, refusals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from fabricated import store, verdicts

from fairbench.leaderboard import builder
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.lookup import find_board


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Boards with verdicts beside them: the baseline, one that is as good, one that is worse."""
    root = tmp_path_factory.mktemp("check")
    boards = {}
    for name, right in (("before", (450, 700)), ("same", (452, 698)), ("worse", (380, 700))):
        labels, predicted = verdicts(right, 1000)
        store(root / name / "results", labels, {"clean": predicted})
        (boards[name],) = builder.build_boards(root / name / "results", root / name / "leaderboards", "tiny")
    return boards


def test_no_regression_is_0_and_a_regression_1(fairbench, sides):
    code, out, err = fairbench("check", "--baseline", sides["before"], "--candidate", sides["same"])
    assert (code, err) == (0, "")
    assert out.startswith("fairness gate: passed, no regression in 4 checks\n")
    code, out, err = fairbench("check", "--baseline", sides["before"], "--candidate", sides["worse"])
    assert (code, err) == (1, "")
    assert out.startswith("fairness gate: FAILED, 3 of 4 checks regressed\n")
    assert "\nfound: sat seed 0, worst class (class-0) fell from 45.0 to 38.0 %; sat seed 0, class class-0 fell " in out


def test_what_could_not_fail_is_said_and_is_2_if_nothing_could(fairbench, tmp_path):
    labels = np.repeat([0, 1], 50)
    for side, right in (("low", 0), ("half", 25)):
        store(tmp_path / side, *two_classes(labels, right))
    both = ("check", "--baseline", tmp_path / "low", "--candidate", tmp_path / "low")
    code, out, err = fairbench(*both)
    assert code == 2
    assert out.startswith("fairness gate: NO VERDICT, no check could fail\n")
    assert out.count("CANNOT FAIL") == 4
    assert err.startswith("fairbench: no check could fail: ")
    assert err.count("\n") == 1
    assert json.loads(fairbench(*both, "--format", "json")[1])["passed"] is False
    # A regression elsewhere is one all the same, and what can fail may pass.
    code, out, err = fairbench("check", "--baseline", tmp_path / "half", "--candidate", tmp_path / "half")
    assert (code, err) == (0, "")
    assert out.startswith("fairness gate: passed, no regression in 2 checks, 2 more could NOT FAIL\n")
    assert "could not fail, because even a fall to 0 would pass: sat seed 0, worst class (class-0) (0.0 %); " in out
    assert fairbench("check", "--baseline", tmp_path / "half", "--candidate", tmp_path / "low")[0] == 1


def test_a_size_is_not_granted_by_what_cannot_drop(fairbench, tmp_path):
    store(tmp_path / "half", *two_classes(np.repeat([0, 1], 50), 25))
    both = ("check", "--baseline", tmp_path / "half", "--candidate", tmp_path / "half", "--require-mde", "25")
    code, _, err = fairbench(*both)
    assert code == 2
    assert "no drop from 0.0 % would be found with power 80%, but the smallest drop to detect is 25 points" in err
    assert fairbench(*both, "--metric", "average")[0] == 0


def test_a_pinned_baseline_is_the_same_figures(fairbench, sides):
    both = ("check", "--baseline", sides["before"], "--candidate", sides["same"])
    pin = json.loads(fairbench(*both, "--format", "json")[1])["pin"]
    assert f"\npin of the baseline: {pin}\n" in fairbench(*both)[1]
    assert fairbench(*both, "--pin", pin)[0] == 0
    code, out, err = fairbench("check", "--baseline", sides["same"], "--candidate", sides["same"], "--pin", pin)
    assert (code, out) == (2, "")
    assert err.endswith(f"not those of the pinned baseline, {pin}\n")


def test_a_repeated_gate_divides_alpha_among_its_runs(fairbench, sides):
    both = ("check", "--baseline", sides["before"], "--candidate", sides["worse"], "--max-drop", "5")
    found = [json.loads(fairbench(*both, "--runs", runs, "--format", "json")[1]) for runs in (1, 365)]
    assert [one["alpha"] for one in found] == pytest.approx([0.05, 0.05 / 365])
    assert [(one["decidable"], one["passed"]) for one in found] == [(True, False), (True, True)]
    assert "\none of 365 planned runs: alpha 0.05 holds for all of them " in fairbench(*both, "--runs", "365")[1]
    assert fairbench(*both, "--runs", "0")[0] == 2


def test_two_methods_and_what_both_sides_have(fairbench, tmp_path):
    labels, predicted = verdicts((450, 700), 1000)
    for side, names in (("old", ("sat", "rslad")), ("new", ("sat", "absld"))):
        for name in names:
            for seed in (0, 1) if side == "old" else (0,):
                store(tmp_path / side / "results", labels, {"clean": predicted}, method=name, seed=seed)
    both = ("check", "--baseline", tmp_path / "old", "--candidate", tmp_path / "new")
    code, _, err = fairbench(*both)
    assert code == 2
    assert "missing from the candidate: rslad seed 0, rslad seed 1, sat seed 1: 3 of 4 rows; " in err
    assert "--methods shared --seeds shared compares what both have, --methods rslad=absld compares two methods" in err
    code, out, _ = fairbench(*both, "--methods", "shared", "--seeds", "shared")
    assert code == 0
    assert "\nleft out: 3 of the baseline's 4 checkpoints: rslad seed 0, rslad seed 1, sat seed 1\n" in out
    assert "\nleft out: 1 of the candidate's 2 checkpoints: absld seed 0\n" in out
    code, out, _ = fairbench(*both, "--methods", "rslad=absld", "--seeds", "0")
    assert code == 0
    assert "\nrslad seed 0 -> absld seed 0  average " in out
    assert "compared: the best checkpoints of rslad seed 0 (baseline) and absld seed 0 (candidate) of suite tiny" in out


def two_classes(labels, right):
    """Labels and predictions of two classes: nothing of the first is right, of the second so many."""
    predicted = np.where(labels == 0, 1, 0)
    predicted[len(labels) // 2 :][:right] = 1
    return labels, {"clean": predicted}


def test_the_tolerance_is_in_points(fairbench, sides):
    both = ("check", "--baseline", sides["before"], "--candidate", sides["worse"])
    assert fairbench(*both, "--max-drop", "8")[0] == 0
    assert fairbench(*both, "--max-drop", "0")[0] == 1


def test_formats(fairbench, sides):
    both = ("check", "--baseline", sides["before"], "--candidate", sides["worse"])
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
        assert err.startswith("fairbench: too small to decide: sat seed 0, ")
        assert err.count("\n") == 1
    assert fairbench(*both, "--require-mde", "50")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--candidate", "nowhere.csv"), "nowhere.csv: no such file or folder"),
        (("--candidate", "WEIGHTS"), "weights.pt: a checkpoint; give the folder of its evaluation: fairbench evaluate"),
        (("--candidate", "BOARD", "--metric", "best"), "metric must be one of worst, average, class, not 'best'"),
        (("--candidate", "BOARD", "--metric", ","), "expected comma-separated names, got ','"),
        (("--candidate", "BOARD", "--attack", "claen"), "did you mean 'clean'?"),
        (("--candidate", "BOARD", "--max-drop", "-1"), "'--max-drop'"),
        (("--candidate", "BOARD", "--max-drop", "nan"), "'--max-drop'"),
        (("--candidate", "BOARD", "--alpha", "1"), "alpha must be more than 0 and less than 1, not 1"),
        (("--candidate", "BOARD", "--methods", "sax"), "unknown method of the baseline 'sax'; did you mean 'sat'?"),
        (("--candidate", "BOARD", "--unit", "method"), "sat: 1 seed; the unit 'method' needs 3"),
        (("--candidate", "BOARD", "--format", "xml"), "'--format'"),
        (("--candidate", "BOARD", "--methods", "shared,sat"), "'shared' alone, each once, not 'shared'"),
        (("--candidate", "BOARD", "--methods", "sat="), "not 'sat='"),
        (("--candidate", "BOARD", "--methods", "sat=sax"), "unknown method of the candidate 'sax'"),
        ((), "'--candidate'"),
    ],
)
def test_bad_input_is_2_and_one_line(fairbench, sides, tmp_path, arguments, message):
    (tmp_path / "weights.pt").touch()
    places = {"BOARD": sides["same"], "WEIGHTS": tmp_path / "weights.pt"}
    given = [places.get(word, word) for word in arguments]
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


ROOT = Path(__file__).parents[2]


def commands(page: str) -> list[str]:
    """Return the lines of a page that call `fairbench check` with what the repository or the main job holds."""
    lines = re.findall(r"^ +fairbench (check .*)$", (ROOT / page).read_text(), re.MULTILINE)
    return [line for line in lines if "old.csv" not in line and "--candidate C" not in line]


def test_the_gates_lines_work_as_written_after_the_main_job(fairbench, monkeypatch, tmp_path):
    board = find_board("digits", ROOT)
    rows = load_leaderboard(board)
    rows = rows[(rows["checkpoint"] == "best") & (rows["attack"] == "union") & ~rows["seed"].isin(["mean", "std"])]
    trained = ("sat", "trades", "rslad", "absld", "teacher")
    for row in rows[rows["method"].isin(trained) & (rows["seed"] == "0")].itertuples():
        folder = Path("results") / "digits" / str(row.method) / str(row.run_id)
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.chdir(ROOT)
    main, *others = commands("docs/gate.md")
    code, out, err = fairbench(*main.replace("fairbench-out", str(tmp_path)).split())
    assert (code, err) == (0, "")
    assert out.startswith("fairness gate: passed, no regression in ")
    assert f"\nleft out: {len(rows) - 5} of the baseline's {len(rows)} checkpoints: absld seed 1, absld seed 2, " in out
    assert len(others) == 2
    for line, compared in zip(others, ("cfol seed 0 -> trades seed 0", "rslad seed 0 -> absld seed 0"), strict=True):
        code, out, err = fairbench(*line.split())
        assert (code, err) == (1, "")
        assert compared in out
        assert "FAILED" in out


def test_a_suites_name_is_its_committed_board_and_a_folder_of_that_name_comes_first(fairbench, monkeypatch, tmp_path):
    labels, predicted = verdicts((450, 700), 1000)
    store(tmp_path / "results", labels, {"clean": predicted})
    builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", "tiny")
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "tiny/v1"):
        assert fairbench("check", "--baseline", name, "--candidate", "results")[0] == 0
    store(tmp_path / "tiny", labels, {"clean": predicted}, protocol="a2")
    code, _, err = fairbench("check", "--baseline", "tiny", "--candidate", "results")
    assert (code, "two protocols" in err) == (2, True)
    code, _, err = fairbench("check", "--baseline", "tiny/v9", "--candidate", "results")
    assert err == "fairbench: tiny/v9: no such file or folder, and no suite of this name has a leaderboard\n"


def test_a_check_runs_no_code_of_the_methods_folder(fairbench, monkeypatch, sides, tmp_path):
    (tmp_path / "methods").mkdir()
    text = "from pathlib import Path\nPath('ran').touch()\nfrom fairbench import register_method\n"
    for name in ("sat", "mine", "__init__"):
        (tmp_path / "methods" / f"{name}.py").write_text(f"{text}\n@register_method('{name}')\nclass A: ...\n")
    monkeypatch.chdir(tmp_path)
    assert fairbench("check", "--baseline", sides["before"], "--candidate", sides["same"])[0] == 0
    before, same = (side.parents[2] / "results" for side in (sides["before"], sides["same"]))
    assert fairbench("check", "--baseline", before, "--candidate", same)[0] == 0
    assert not (tmp_path / "ran").exists()
    # The same folder does run where a command trains or lists a method's settings.
    fairbench("methods", "show", "mine")
    assert (tmp_path / "ran").exists()
