"""Which checkpoints of two sides the gate compares, and which it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from entries import IMAGES, after, blind, entry
from fabricated import store, verdicts

from fairbench.errors import InvalidInput
from fairbench.gate import decision
from fairbench.gate.decision import check
from fairbench.gate.evidence import read_evidence
from fairbench.leaderboard import builder


@pytest.mark.parametrize(
    ("before", "candidate", "words"),
    [
        ([entry()], [after(protocol="a2")], "protocol is a1, the candidate's a2"),
        ([entry()], [after(suite="other")], "every row of suite tiny; it has rows of other"),
        ([entry(), entry(method="absld")], [after()], "missing from the candidate: absld seed 0: 1 of 2 rows"),
        ([entry(), entry(seed="1")], [after()], "missing from the candidate: sat seed 1"),
        ([entry()], [after(data="e")], "different datasets"),
        ([entry()], [after(class_names=("a", "b", "x"))], "different classes"),
        ([entry()], [entry((450, 700), class_names=())], r"different numbers of classes \(3 and 2\)"),
        ([entry()], [entry(images=2000)], "different test images"),
        ([entry()], [after(labels=np.roll(np.repeat(np.arange(3), IMAGES), 1))], "different test labels"),
        ([entry(images_hash="i")], [after(images_hash="j")], "different test images"),
        ([entry(), entry()], [after()], "occur twice"),
        ([entry()], [], "the candidate holds no checkpoint"),
        ([], [entry()], "the baseline holds no checkpoint"),
        ([entry(alone=True)], [after(), after(seed="1")], "one checkpoint cannot be compared with 2"),
        ([entry(alone=True)], [after(protocol="a2", alone=True)], "figures of two protocols"),
        ([entry()], [after(alone=True, protocol="", threat=("Linf", 0.2))], "threat models .Linf 0.1 and Linf 0.2"),
        ([entry()], [after(alone=True, protocol="", threat=None)], "the candidate names no threat model"),
        ([entry()], [replace(after(), alone=True, protocol="", attacks=("clean", "fgsm"))], "fgsm on one side only"),
    ],
)
def test_sides_that_cannot_be_compared_are_refused(before, candidate, words):
    with pytest.raises(InvalidInput, match=words):
        check(before, candidate)


@pytest.mark.parametrize("choice", [{"methods": ["absld"]}, {"seeds": ["7"]}])
def test_a_choice_between_single_checkpoints_is_refused(choice):
    (name,) = next(iter(choice.values()))
    with pytest.raises(InvalidInput, match=f"^'{name}': methods and seeds choose among the checkpoints of a board"):
        check([entry(alone=True)], [after(alone=True)], **choice)
    assert check([entry(alone=True)], [after(alone=True)], methods=["shared"], metric="worst").checks
    assert check([entry(alone=True)], [after(), after(seed="1")], seeds=["1"], metric="worst").checks


def test_checkpoints_of_the_candidate_alone_are_left_out():
    outcome = check([entry()], [after(), after(method="new", worst=300), after(suite="other")], metric="worst")
    assert [one.name for one in outcome.checks] == ["sat seed 0"]
    assert outcome.left_out == ("2 of the candidate's 3 checkpoints: new seed 0, sat seed 0",)


def test_methods_and_seeds_select_checkpoints():
    before = [entry(), entry(method="absld"), entry(method="absld", seed="1")]
    outcome = check(before, [after(method="absld", seed="1")], methods=["absld"], seeds=["1"], metric="worst")
    assert [one.name for one in outcome.checks] == ["absld seed 1"]
    assert outcome.left_out == ("2 of the baseline's 3 checkpoints: absld seed 0, sat seed 0",)
    with pytest.raises(InvalidInput, match="unknown method of the baseline 'abs'; did you mean 'absld'"):
        check(before, [after()], methods=["abs"])


def test_a_checkpoint_by_itself_is_compared_whatever_its_name():
    nameless = after(method="", seed="", protocol="", suite="", alone=True, worst=100)
    outcome = check([entry()], [nameless], metric="worst")
    assert [(one.name, one.failed) for one in outcome.checks] == [("sat seed 0", True)]
    outcome = check([entry(alone=True)], [after(method="absld", seed="2", alone=True)], metric="worst")
    assert [one.name for one in outcome.checks] == ["sat seed 0 -> absld seed 2"]


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", ["0", "z"])  # sorts before and after the suite's own protocol
def test_results_of_changed_settings_do_not_stand_for_the_suites_own(alone, name):
    changed = {"protocol": name, "custom": True, "alone": alone}
    before = [entry(**changed), entry(protocol="p", alone=alone)]
    new = [after(worst=300, **changed), after(protocol="p", alone=alone)]
    assert check(before, new, metric="worst").passed
    assert check(before[::-1], new[::-1], metric="worst").passed
    assert not check(before, new[:1], metric="worst").passed


def test_shared_compares_the_checkpoints_that_both_sides_have():
    before = [entry(), entry(seed="1"), entry(method="absld"), entry(suite="other")]
    new = [after(), after(method="wat")]
    with pytest.raises(InvalidInput, match="every row of suite other"):
        check(before, new)
    outcome = check(before, new, methods=["shared"], seeds=["shared"], metric="worst")
    assert [one.name for one in outcome.checks] == ["sat seed 0"]
    # Each word stands for its own kind: a method that is there must have all seeds, unless seeds are shared, too.
    with pytest.raises(InvalidInput, match="missing from the candidate: sat seed 1: 1 of 3 rows"):
        check(before[:3], new, methods=["shared"])
    with pytest.raises(InvalidInput, match="missing from the candidate: absld seed 0: 1 of 3 rows"):
        check(before[:3], new, seeds=["shared"])
    with pytest.raises(InvalidInput, match="missing from the candidate: absld seed 0"):
        check([entry(method="absld")], new, methods=["shared"], seeds=["shared"])


def test_two_methods_are_compared_seed_by_seed():
    before = [entry(seed=str(seed)) for seed in range(3)]
    new = [after(method="absld", seed=str(seed), worst=100 + seed) for seed in range(3)]
    outcome = check(before, new, methods=["sat=absld"], metric="worst")
    assert [one.name for one in outcome.checks] == [f"sat seed {seed} -> absld seed {seed}" for seed in range(3)]
    assert all(one.failed for one in outcome.checks)
    (one,) = check(before, new, methods=["sat=absld"], metric="worst", unit="method").checks
    assert (one.name, one.failed) == ("sat -> absld", True)


def test_the_pin_is_that_of_the_baselines_figures():
    pin = check([entry()], [after()]).pin
    assert pin == check([entry()], [after(worst=300)]).pin
    assert pin == check([blind(entry())], [after()]).pin
    assert pin != check([entry((451, 700, 800))], [after()]).pin
    assert check([entry()], [after()], pin=pin).passed
    with pytest.raises(InvalidInput, match=f"those of pin {pin}, not those of the pinned baseline, abc"):
        check([entry()], [after()], pin="abc")


def test_the_newest_protocol_of_both_sides_is_compared(tmp_path):
    labels, good = verdicts((45, 70), 100)
    _, bad = verdicts((5, 70), 100)
    for side, runs in (("old", ((1, good),)), ("new", ((1, good), (2, bad)))):
        for version, predicted in runs:
            name = {"protocol": f"a{version}", "version": version}
            store(tmp_path / side, labels, {"clean": predicted}, data_hash=f"d{version}", **name)
    assert check(tmp_path / "old", tmp_path / "new").passed
    store(tmp_path / "old", labels, {"clean": good}, data_hash="d2", protocol="a2", version=2)
    assert not check(tmp_path / "old", tmp_path / "new").passed


def test_a_board_is_compared_with_run_folders_pair_by_pair(tmp_path):
    labels, good = verdicts((450, 700), 1000)
    _, bad = verdicts((400, 700), 1000)
    for side, predicted in (("old", good), ("new", bad)):
        store(tmp_path / side / "results", labels, {"clean": labels, "pgd-20": predicted})
        builder.build_boards(tmp_path / side / "results", tmp_path / side / "leaderboards", "tiny")
    board = tmp_path / "old" / "leaderboards" / "tiny" / "v1.csv"
    outcome = check(board, tmp_path / "new")
    assert [(one.test, one.failed) for one in outcome.checks[:2]] == [("paired", True), ("paired", False)]
    assert check(board, tmp_path / "new", attack="clean").passed
    assert [one.before for one in check(board, board, metric="worst").checks] == [0.45]
    assert read_evidence(board)[0].protocol == "a1"


def test_a_board_that_is_both_sides_is_read_once(monkeypatch):
    sides = []
    monkeypatch.setattr(decision, "read_evidence", lambda *asked: sides.append(asked) or read_evidence(*asked))
    outcome = check("digits", "digits", methods=["sat=rslad"], seeds=["0"])
    assert len(sides) == 1
    assert {one.name for one in outcome.checks} == {"sat seed 0 -> rslad seed 0"}
