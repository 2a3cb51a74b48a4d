from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fabricated import store, verdicts

from fairbench.errors import InvalidInput
from fairbench.gate.decision import check
from fairbench.gate.entry import Entry
from fairbench.gate.evidence import read_evidence
from fairbench.leaderboard import builder
from fairbench.statistics.noninferiority import two_sample_drop_test
from fairbench.statistics.significance import mcnemar, minimum_detectable_difference

IMAGES = 1000
BEFORE = (450, 700, 800)


def entry(right=BEFORE, *, images: int = IMAGES, lost=0, method="sat", seed="0", **fields) -> Entry:
    """A checkpoint right on this many images of each class: the first ones, but for the `lost` first of all."""
    first = np.broadcast_to(lost, len(right))
    labels = np.repeat(np.arange(len(right)), images)
    position = np.arange(len(labels)) % images
    hits = (position >= first[labels]) & (position < (first + right)[labels])
    known = {
        "suite": "tiny",
        "protocol": "a1",
        "threat": ("Linf", 0.1),
        "data": "d",
        "class_names": tuple("abcdefghij"[: len(right)]),
        "labels": labels,
        "hits": hits,
    }
    counts = np.full(len(right), images)
    return Entry(np.array(right), counts, ("clean",), method, seed, **{**known, **fields})


def blind(one: Entry) -> Entry:
    """The same as a CSV alone knows it."""
    return replace(one, labels=None, hits=None, class_names=(), threat=None)


def after(worst: int = 0, others: int = 0, **fields) -> Entry:
    """A candidate that has lost these many images of its classes in balance, of 7 % that changed or more."""
    drops = np.array([worst, others, others])
    return entry(np.array(BEFORE) - drops, lost=25 + np.maximum(drops, 0), **fields)


def test_a_drop_of_the_worst_class_fails_and_says_so():
    outcome = check([entry()], [after(worst=60)])
    assert [one.figure for one in outcome.checks] == ["worst class (a)", "average", "class a", "class b", "class c"]
    assert [one.share for one in outcome.checks] == pytest.approx([1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6])
    assert [one.failed for one in outcome.checks] == [True, False, True, False, False]
    one = outcome.checks[0]
    assert not outcome.passed
    assert (one.name, one.figure, one.test) == ("sat seed 0", "worst class (a)", "paired")
    assert (one.before, one.after) == (0.45, 0.39)
    assert one.drop == pytest.approx(0.06)
    assert one.p < 0.001


def test_without_tolerance_the_worst_class_is_mcnemars_at_most_of_alpha():
    (one,) = check([entry()], [after(worst=20)], max_drop=0, metric="worst").checks
    assert one.p == pytest.approx(mcnemar(45, 25, alternative="greater") / 0.8)
    assert one.failed
    assert one.detectable == pytest.approx(minimum_detectable_difference(1000, 0.07, alpha=0.8 * 0.05), abs=1e-4)


@pytest.mark.parametrize("worst", [0, -100, 10, 20])
def test_noise_improvement_and_what_is_tolerated_pass(worst):
    outcome = check([entry()], [after(worst=worst)], metric=("worst", "average", "class"))
    assert outcome.passed
    assert len(outcome.checks) == 5


def test_a_class_that_falls_below_all_of_them_fails_though_the_worst_one_stays():
    fallen = entry((450, 300, 800))
    (one,) = check([entry()], [fallen], metric="worst").checks
    assert one.failed
    assert one.figure == "worst class (a -> b)"
    # Down to where the worst one stands is no fall of the worst class, but one of that class.
    level = entry((450, 450, 800))
    assert check([entry()], [level], metric="worst").passed
    found = check([entry()], [level], metric="class")
    assert [one.failed for one in found.checks] == [False, True, False]


def test_the_average_pools_the_classes():
    (one,) = check([entry()], [after(worst=50, others=50)], max_drop=0, metric="average").checks
    assert one.p == pytest.approx(mcnemar(3 * 75, 3 * 25, alternative="greater"))
    assert one.after == pytest.approx(0.6)


def test_p_is_adjusted_for_all_that_is_checked():
    one = check([entry()], [after(worst=20)], max_drop=0, metric="class").checks[0]
    assert one.p == pytest.approx(3 * mcnemar(45, 25, alternative="greater"))
    single = check([entry()], [after(worst=20)], max_drop=0, metric="average").checks[0]
    assert one.detectable > single.detectable
    several = [entry(seed=str(seed)) for seed in range(3)]
    worse = [after(worst=20, seed="0"), after(seed="1"), after(seed="2")]
    found = check(several, worse, max_drop=0, metric="worst")
    assert found.checks[0].p == pytest.approx(3 * mcnemar(45, 25, alternative="greater") / 0.8)
    assert "p is adjusted for 3 checks (Holm, with the shares of alpha)" in found.notes


@pytest.mark.parametrize("sides", [(blind, lambda one: one), (lambda one: one, blind), (blind, blind)])
def test_where_one_side_has_counts_alone_the_samples_are_two_and_it_says_so(sides):
    outcome = check([sides[0](entry())], [sides[1](after(worst=20))], max_drop=0, metric="worst")
    (one,) = outcome.checks
    assert one.test == "two-sample"
    assert one.p == pytest.approx(two_sample_drop_test(450, 1000, 430, 1000) / 0.8)
    assert not one.failed
    assert any(note.startswith("two-sample: without both sides' verdicts") for note in outcome.notes)
    assert not check([sides[0](entry())], [sides[1](after(worst=120))]).passed


def test_identical_checkpoints_pass_and_tell_what_they_could_have_found():
    outcome = check([entry()], [entry()], max_drop=0, metric="average")
    assert outcome.passed
    assert 0 < outcome.detectable < 0.01
    outcome.require_detectable(1.0)


def test_a_board_too_small_is_refused_when_a_size_is_required():
    small = [entry((4, 7, 8), images=10)]
    outcome = check(small, small, metric="average")
    assert outcome.passed
    with pytest.raises(
        InvalidInput,
        match=r"too small to decide: sat seed 0, average: only a drop of .* the smallest drop to detect is 5 points",
    ):
        outcome.require_detectable(5)
    with pytest.raises(InvalidInput, match="more than 0 points and finite, not nan"):
        outcome.require_detectable(float("nan"))
    with pytest.raises(InvalidInput, match="more than 0 points and finite, not inf"):
        outcome.require_detectable(float("inf"))


def test_a_class_without_images_is_left_out():
    labels, predicted = verdicts((5, 9), 10)
    one = Entry(
        np.array([5, 0, 9]), np.array([10, 0, 10]), ("clean",), "sat", "0", "tiny", "a1",
        labels=2 * labels, hits=labels == predicted,
    )  # fmt: skip
    outcome = check([one], [one], metric=("worst", "class"))
    assert [found.figure for found in outcome.checks] == ["worst class (0)", "class 0", "class 2"]


@pytest.mark.parametrize(
    ("before", "candidate", "words"),
    [
        ([entry()], [after(protocol="a2")], "protocol is a1, the candidate's a2"),
        ([entry()], [after(suite="other")], "every row of suite tiny"),
        ([entry(), entry(method="absld")], [after()], "missing from the candidate: absld seed 0: 1 of 2 rows"),
        ([entry(), entry(seed="1")], [after()], "missing from the candidate: sat seed 1"),
        ([entry()], [after(data="e")], "different datasets"),
        ([entry()], [after(class_names=("a", "b", "x"))], "different classes"),
        ([entry()], [entry((450, 700), class_names=())], r"different numbers of classes \(3 and 2\)"),
        ([entry()], [entry(images=2000)], "different test images"),
        ([entry()], [after(labels=np.roll(np.repeat(np.arange(3), IMAGES), 1))], "different test labels"),
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
def test_what_cannot_be_compared_is_refused(before, candidate, words):
    with pytest.raises(InvalidInput, match=words):
        check(before, candidate)


def test_more_than_the_baseline_has_is_left_alone():
    outcome = check([entry()], [after(), after(method="new", worst=300), after(suite="other")], metric="worst")
    assert [one.name for one in outcome.checks] == ["sat seed 0"]
    assert outcome.left_out == ("2 of the candidate's 3 checkpoints: new seed 0, sat seed 0",)


def test_methods_and_seeds_choose():
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


def test_what_both_sides_have_is_compared_when_asked():
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


@pytest.mark.parametrize("side", [lambda one: one, blind])
def test_what_cannot_drop_cannot_fail_and_is_not_detectable(side):
    """With 50 images a class: 0 and 2 of them are less than the tests need, paired and two-sample alike."""
    low = side(entry((0, 2, 40), images=50))
    better = side(entry((5, 2, 40), images=50))
    for candidate in (low, better):
        outcome = check([low], [candidate])
        worst, average, first, second, third = outcome.checks
        assert [one.can_fail for one in outcome.checks] == [False, True, False, False, True]
        assert all(np.isinf(one.detectable) for one in (worst, first, second))
        assert third.detectable < 0.8
        assert average.detectable < average.before
        assert outcome.decidable
        with pytest.raises(InvalidInput, match=r"no drop from 0\.0 % would be found"):
            outcome.require_detectable(99)
    outcome = check([low], [low], metric="worst")
    assert outcome.passed
    assert not outcome.decidable
    with pytest.raises(InvalidInput, match="no check could fail"):
        outcome.require_decidable()


@pytest.mark.parametrize("images", [20, 50, 1000])
@pytest.mark.parametrize("side", [lambda one: one, blind])
@pytest.mark.parametrize("max_drop", [0, 2])
def test_a_check_can_fail_exactly_when_a_fall_to_0_fails(images, side, max_drop):
    rights = np.unique(np.round(images * np.array([0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3]))).astype(int)
    gone = side(entry((0, 0, 0), images=images))
    for right in rights:
        start = entry((right, images // 2, images // 2), images=images)
        nothing = replace(gone, hits=None if gone.hits is None else np.zeros_like(gone.hits))
        one = check([side(start)], [nothing], metric=["worst", "class"], max_drop=max_drop).checks
        alone = check([side(start)], [side(start)], metric=["worst", "class"], max_drop=max_drop).checks
        # As Holm's first step: by itself, at its own share of alpha.
        raw = two_sample_drop_test(int(right), images, 0, images, max_drop / 100) if side is blind else None
        assert [found.can_fail for found in one] == [found.can_fail for found in alone]
        if raw is not None:
            assert alone[1].can_fail == (raw <= 0.05 * alone[1].share)
        if not alone[1].can_fail:
            assert np.isinf(alone[1].detectable)


def test_methods_whose_figure_is_at_0_cannot_fail():
    seeds = [entry((0, 700, 800), seed=str(seed)) for seed in range(3)]
    outcome = check(seeds, seeds, unit="method")
    assert [one.can_fail for one in outcome.checks] == [False, True, False, True, True]
    assert np.isinf(outcome.checks[0].detectable)


def test_a_repeated_gate_has_less_of_alpha_in_each_run():
    outcomes = [check([entry()], [after(worst=60)], runs=runs) for runs in (1, 365)]
    assert [one.alpha for one in outcomes] == pytest.approx([0.05, 0.05 / 365])
    assert outcomes[1].detectable > outcomes[0].detectable
    assert outcomes[1].checks[0].can_fail
    assert "one of 365 planned runs: alpha 0.05 holds for all of them together" in outcomes[1].notes
    with pytest.raises(InvalidInput, match="must be 1 to 1000000, not 0"):
        check([entry()], [after()], runs=0)


def test_the_pin_is_that_of_the_baselines_figures():
    pin = check([entry()], [after()]).pin
    assert pin == check([entry()], [after(worst=300)]).pin
    assert pin == check([blind(entry())], [after()]).pin
    assert pin != check([entry((451, 700, 800))], [after()]).pin
    assert check([entry()], [after()], pin=pin).passed
    with pytest.raises(InvalidInput, match=f"those of pin {pin}, not those of the pinned baseline, abc"):
        check([entry()], [after()], pin="abc")


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


def test_flags_that_are_green_say_nothing_and_flags_left_out_are_no_pass():
    assert check([entry(flags=frozenset())], [entry(flags=frozenset())]).findings == ()
    assert "flags were not checked on either side" in check([entry()], [entry()]).notes
    said = "a flag that is red and was not fails without a test: alpha does not bound that"
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
        (replace(slower, costs={"flops": 1.0}), "no train_seconds on the candidate"),
    ):
        with pytest.raises(InvalidInput, match=words):
            check([before], [other], max_slowdown=1.5)
    with pytest.raises(InvalidInput, match="positive factor up to 1e9, not 0"):
        check([before], [slower], max_slowdown=0)


def test_methods_are_judged_over_their_seeds():
    before = [entry((450 + shift, 700, 800), seed=str(seed)) for seed, shift in enumerate((0, 10, 20))]
    worse = [entry((350 + shift, 700, 800), seed=str(seed)) for seed, shift in enumerate((5, 8, 20))]
    outcome = check(before, worse, unit="method", metric=("worst", "average", "class"))
    assert [one.figure for one in outcome.checks] == ["worst class", "average", "class a", "class b", "class c"]
    assert {one.test for one in outcome.checks} == {"3 seeds"}
    assert [one.failed for one in outcome.checks] == [True, True, True, False, False]
    assert outcome.checks[0].before == pytest.approx(0.46)
    # A drop that seeds alone explain: every checkpoint by itself has regressed or improved, the method has not.
    spread = [entry((450 + shift, 700, 800), seed=str(seed)) for seed, shift in enumerate((-90, 10, 110))]
    assert not check(before, spread).passed
    assert check(before, spread, unit="method").passed
    with pytest.raises(InvalidInput, match="sat: 2 seeds; the unit 'method' needs 3"):
        check(before[:2], worse[:2], unit="method")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "best"}, "metric must be of worst, average, class, not 'best'"),
        ({"metric": ()}, "not 'empty'"),
        ({"max_drop": -1}, "max drop -1"),
        ({"max_drop": float("nan")}, "max drop nan"),
        ({"alpha": 0}, "alpha 0"),
        ({"unit": "seed"}, "unit 'seed'"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(InvalidInput, match=words):
        check([entry()], [entry()], **options)


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


COMMITTED = Path(__file__).parents[2] / "results" / "digits"


def test_the_committed_collapses_are_found():
    """ABSLD's classes 0, 6 and 7 are far below RSLAD's, and class 8 of FairAT is at 0 already."""
    rslad, absld = read_evidence(COMMITTED / "rslad"), read_evidence(COMMITTED / "absld")
    for seed in "012":
        outcome = check(rslad, absld, methods=["rslad=absld"], seeds=[seed])
        failed = [one.figure for one in outcome.checks if one.failed]
        assert {"average", "class 0", "class 6", "class 7"} <= set(failed)
        assert check(rslad, absld, methods=["rslad=absld"], seeds=[seed], metric="worst").passed
    (before,) = [one for one in read_evidence(COMMITTED / "fairat") if one.seed == "0" and one.version == 3]
    nothing = replace(before, correct=np.zeros_like(before.correct), hits=np.zeros_like(before.hits))
    outcome = check([before], [nothing])
    assert [one.figure for one in outcome.checks if not one.can_fail] == ["worst class (8 -> 0)", "class 8"]
    assert all(one.failed for one in outcome.checks if one.can_fail)
