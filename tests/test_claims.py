"""docs/claims.py derives every sentence from a test, and docs/digits.md is what it writes."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from doc_scripts import doc_script

from fairbench import load_leaderboard
from fairbench.leaderboard.differences import Difference

ROOT = Path(__file__).parent.parent
BOARD = ROOT / "leaderboards" / "digits" / "v3.csv"


@pytest.fixture(scope="module")
def claims() -> ModuleType:
    return doc_script("claims")


@pytest.fixture(scope="module")
def board() -> pd.DataFrame:
    return load_leaderboard(BOARD)


def made(rows: dict[str, list[list[float]]], seeds: int = 5) -> pd.DataFrame:
    """Rows of a board of two classes with 50 images each: accuracies by class for each seed, by method."""
    lines = []
    for method, accuracies in rows.items():
        for seed, classes in enumerate(accuracies[:seeds]):
            figures = {f"class_{number}": value for number, value in enumerate(classes)}
            counts = {f"n_class_{number}": 50 for number in range(len(classes))}
            mean, deviation = np.mean(classes), np.std(classes)
            line = {"method": method, "seed": str(seed), "checkpoint": "best", "n": 50 * len(classes)}
            line |= {"average": mean, "worst": min(classes), "nsd": deviation / mean if mean else np.nan}
            lines += [{**line, **figures, **counts, "attack": attack} for attack in ("pgd-20", "union")]
    return pd.DataFrame(lines)


def around(*classes: float, spread: float = 0.02) -> list[list[float]]:
    """Five seeds around these accuracies, in steps of an image."""
    return [[value + shift * spread for value in classes] for shift in (-1, 0, 1, 0, 0)]


@pytest.mark.parametrize(
    ("page", "arguments"),
    [
        ("digits.md", ["leaderboards/digits/v4.csv"]),
        ("cifar10-micro.md", ["leaderboards/cifar10-micro/v3.csv", "--attacks", "pgd-20,cw-30"]),
        ("cifar100-micro.md", ["leaderboards/cifar100-micro/v1.csv", "--attacks", "pgd-20,cw-30"]),
    ],
)
def test_the_document_is_what_the_command_writes(claims, tmp_path, monkeypatch, page, arguments):
    monkeypatch.chdir(ROOT)
    committed = (ROOT / "docs" / page).read_text(encoding="utf-8")
    target = tmp_path / page
    emptied = re.sub(r"(<!-- begin (board|claims|cost) -->).*?(<!-- end \2 -->)", r"\1\3", committed, flags=re.DOTALL)
    assert emptied != committed
    target.write_text(emptied, encoding="utf-8")
    claims.main([*arguments, "--write", str(target)])
    assert target.read_text(encoding="utf-8") == committed


def test_a_board_of_a_later_version_with_some_of_the_methods_is_written_as_well(claims, board, tmp_path):
    """Version 4 as it stands after its first lot: tuned, fifteen methods, one of them without enough seeds yet."""
    lot = ["sat", "trades", "rslad", "absld", "frl", "dafa", "wat", "teacher"]
    rows = board[board["method"].isin(lot)].astype({"suite": str}).copy()
    rows["budget_hash"], rows["tuning"], rows["train_robust"] = "0" * 12, "tuned", 0.5
    rows = rows[~((rows["method"] == "wat") & (rows["seed"] == "2"))]
    path = tmp_path / "digits" / "v4.csv"
    path.parent.mkdir()
    rows.to_csv(path, index=False)
    document = tmp_path / "digits.md"
    marks = [claims.MARK.format(word, name) for name in ("board", "claims", "cost") for word in ("begin", "end")]
    document.write_text("\n".join(marks), encoding="utf-8")
    claims.main([str(path), "--write", str(document)])
    text = document.read_text(encoding="utf-8")
    assert "digits v4" in text
    tested = {line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if " - " in line.split(" | ")[0]}
    assert tested >= {"absld - rslad", "frl - sat", "dafa - trades", "absld - sat", "rslad - sat"}
    assert "wat - trades" not in tested
    assert "Of 30 tests" in text
    assert "robust in training %" in text
    assert "the teacher withstood 50.0 % of its own" in text


def test_a_board_with_one_seed_writes_no_claims(claims, board, tmp_path, capsys):
    path = tmp_path / "digits" / "v3.csv"
    path.parent.mkdir()
    rows = board[board["seed"].isin(["0"]) & board["method"].isin(["sat", "rslad", "absld", "teacher"])]
    rows.to_csv(path, index=False)
    document = tmp_path / "digits.md"
    marks = [claims.MARK.format(word, name) for name in ("board", "cost") for word in ("begin", "end")]
    document.write_text("\n".join(marks), encoding="utf-8")
    claims.main([str(path), "--write", str(document)])
    assert "| absld |" in document.read_text(encoding="utf-8")
    claims.main([str(path)])
    assert "as the paper says?" not in capsys.readouterr().out


def test_a_difference_is_claimed_only_where_its_corrected_test_is_significant(claims):
    low, high = around(0.6, 0.4), around(0.6, 0.56)
    tests = claims.compared(made({"rslad": low, "absld": high, "sat": around(0.6, 0.41)}), claims.FAIRNESS)
    assert {key[:2] for key in tests} == {("absld", "rslad")}
    assert tests["absld", "rslad", "worst", "pgd-20"].winner == "A"
    assert tests["absld", "rslad", "worst", "pgd-20"].difference == pytest.approx(0.16, abs=0.011)
    text = claims.report(tests)
    assert "- supported under both attacks: absld (rslad)." in text
    assert "- absld's worst class under pgd-20 is 16.0 points higher than rslad's." in text
    same = claims.report(claims.compared(made({"rslad": low, "absld": low}), claims.FAIRNESS))
    assert "- open: no significant difference: absld (rslad)." in same
    assert same.endswith("on these images:\n\n- none")
    wrong = claims.report(claims.compared(made({"rslad": high, "absld": low}), claims.FAIRNESS))
    assert "- contradicted: significantly lower under an attack: absld (rslad)." in wrong


@pytest.mark.parametrize(
    ("tests", "verdict"),
    [
        ([(0.1, 0.04), (0.1, 0.01)], "supported under both attacks"),
        ([(0.1, 0.04), (0.1, 0.06)], "supported under one of the attacks"),
        ([(0.1, 0.04), (-0.1, 0.01)], "contradicted: significantly lower under an attack"),
        ([(-0.1, 0.06), (0.1, 0.06)], "open: no significant difference"),
    ],
)
def test_the_verdict_on_a_claim_by_hand(claims, tests, verdict):
    assert claims._verdict([Difference("worst", size, 0.0, raw=0.001, p=p) for size, p in tests]) == verdict


def test_every_significant_difference_of_the_committed_board_is_one_sentence(claims, board):
    tests = claims.compared(board, (*claims.FAIRNESS, *claims.OTHERS))
    assert all(one.p >= one.raw for one in tests.values())
    assert all(one.low <= one.difference <= one.high for one in tests.values())
    text = claims.report(tests).split("**Differences that are significant after correction**")[1]
    assert text.count("\n- ") == sum(bool(one.winner) for one in tests.values()) > 0


def test_ablations_have_intervals_and_the_order_of_their_groups(claims):
    rows = {"absld": around(0.6, 0.5), "rslad": around(0.6, 0.4), "absld_random": around(0.6, 0.3)}
    rows["rslad+absld_temperatures+cfa_margins"] = around(0.6, 0.5)
    rows |= {"absld_self": around(0.4, 0.3), "rslad_self": around(0.4, 0.3)}
    text = claims.ablations(made(rows))
    assert text.index("absld - rslad") < text.index("absld_self - rslad_self") < text.index("cfa_margins - absld")
    (line,) = [line for line in text.splitlines() if line.startswith("| absld - absld_random")]
    assert line.split(" | ")[2].startswith("**+20.0 [+1")
    assert "absld's worst class under union is 20.0 points higher than absld_random's." in text
    assert "absld - absld_uniform" not in text


def test_the_ablations_are_those_of_the_suite(claims):
    from fairbench.suites.suite import load_suite

    pairs = (*claims.ADAPTIVE, *claims.TEACHERLESS, *claims.LABEL_AND_SAMPLE)
    assert {name for pair in pairs for name in pair} == set(load_suite("digits-ablations").methods)


def test_a_method_that_withstands_nothing_has_no_test_of_its_spread(claims):
    rows = {"rslad": around(0.6, 0.4), "absld": [[0.0, 0.0]] * 5}
    tests = claims.compared(made(rows), claims.FAIRNESS)
    assert ("absld", "rslad", "worst", "union") in tests
    assert ("absld", "rslad", "nsd", "union") not in tests
    assert "absld - rslad" in claims.report(tests)


def test_marks_that_are_missing_are_named(claims):
    with pytest.raises(ValueError, match="no marks <!-- begin board -->"):
        claims.written("no marks", {"board": "text"})
