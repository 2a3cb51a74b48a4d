"""The decision of the gate: tests, their levels and their power."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from entries import after, blind, entry
from fabricated import verdicts

from fairbench.errors import InvalidInput
from fairbench.gate.decision import check
from fairbench.gate.entry import Entry
from fairbench.gate.evidence import read_evidence
from fairbench.statistics.noninferiority import two_sample_drop_test
from fairbench.statistics.significance import mcnemar, minimum_detectable_difference


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
def test_noise_improvements_and_tolerated_drops_pass(worst):
    outcome = check([entry()], [after(worst=worst)], metric=("worst", "average", "class"))
    assert outcome.passed
    assert len(outcome.checks) == 5


def test_a_class_that_falls_below_all_of_the_baseline_fails_though_the_worst_one_stays():
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


def test_p_is_adjusted_for_all_checks():
    one = check([entry()], [after(worst=20)], max_drop=0, metric="class").checks[0]
    assert one.p == pytest.approx(3 * mcnemar(45, 25, alternative="greater"))
    single = check([entry()], [after(worst=20)], max_drop=0, metric="average").checks[0]
    assert one.detectable > single.detectable
    several = [entry(seed=str(seed)) for seed in range(3)]
    worse = [after(worst=20, seed="0"), after(seed="1"), after(seed="2")]
    found = check(several, worse, max_drop=0, metric="worst")
    assert found.checks[0].p == pytest.approx(3 * mcnemar(45, 25, alternative="greater") / 0.8)
    assert "p is adjusted for 3 checks (Holm's method, weighted by their shares of alpha)" in found.notes


@pytest.mark.parametrize("sides", [(blind, lambda one: one), (lambda one: one, blind), (blind, blind)])
def test_without_the_verdicts_of_both_sides_the_test_is_two_sample_and_says_so(sides):
    outcome = check([sides[0](entry())], [sides[1](after(worst=20))], max_drop=0, metric="worst")
    (one,) = outcome.checks
    assert one.test == "two-sample"
    assert one.p == pytest.approx(two_sample_drop_test(450, 1000, 430, 1000) / 0.8)
    assert not one.failed
    assert any(note.startswith("two-sample: one side has no prediction of each image") for note in outcome.notes)
    assert not check([sides[0](entry())], [sides[1](after(worst=120))]).passed


def test_identical_checkpoints_pass_and_report_the_detectable_drop():
    outcome = check([entry()], [entry()], max_drop=0, metric="average")
    assert outcome.passed
    assert 0 < outcome.detectable < 0.01
    outcome.require_detectable(1.0)


def test_a_board_too_small_for_the_required_drop_is_refused():
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


@pytest.mark.parametrize("side", [lambda one: one, blind])
def test_a_figure_that_cannot_drop_cannot_fail_and_is_not_detectable(side):
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
    seeds = [entry((0, 700 + shift, 800 + shift), seed=str(seed)) for seed, shift in enumerate((0, 5, 9))]
    outcome = check(seeds, seeds, unit="method")
    assert [one.can_fail for one in outcome.checks] == [False, True, False, True, True]
    assert np.isinf(outcome.checks[0].detectable)


@pytest.mark.parametrize("rights", [(38, 38, 38), (5, 14, 7)])
def test_a_method_over_seeds_cannot_fail_if_a_fall_to_0_would_pass(rights):
    """Three equal drops have a p of 1/8, and drops that differ much have more than alpha."""
    before = [entry((right,), images=50, seed=str(seed)) for seed, right in enumerate(rights)]
    nothing = [entry((0,), images=50, seed=str(seed)) for seed in range(len(rights))]
    outcome = check(before, nothing, unit="method", metric="worst")
    assert not outcome.decidable
    assert np.isinf(outcome.checks[0].detectable)
    varied = [entry((right,), images=50, seed=str(seed)) for seed, right in enumerate((36, 38, 40))]
    assert check(varied, nothing, unit="method", metric="worst").decidable


def test_a_method_over_seeds_that_differ_can_fail_by_an_even_drop():
    """A fall to 0 spreads as the baseline does and is not found; a drop by as much in every seed is."""
    rights = (100, 300, 140)

    def changed(*by: int) -> list[Entry]:
        return [entry((right + by[seed], 700, 800), seed=str(seed)) for seed, right in enumerate(rights)]

    before, drops = changed(0, 0, 0), [changed(-80, -81, -79), changed(-100, -300, -140), changed(0, 5, 10)]
    even, nothing, noise = (check(before, after, unit="method", metric="worst") for after in drops)
    assert not even.passed
    assert nothing.passed
    assert noise.decidable


def test_a_repeated_gate_has_less_of_alpha_in_each_run():
    outcomes = [check([entry()], [after(worst=60)], runs=runs) for runs in (1, 365)]
    assert [one.alpha for one in outcomes] == pytest.approx([0.05, 0.05 / 365])
    assert outcomes[1].detectable > outcomes[0].detectable
    assert outcomes[1].checks[0].can_fail
    assert "one of 365 planned runs: alpha 0.05 holds for all of them together" in outcomes[1].notes
    with pytest.raises(InvalidInput, match="must be 1 to 1000000, not 0"):
        check([entry()], [after()], runs=0)


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
        ({"metric": "best"}, "metric must be one of worst, average, class, not 'best'"),
        ({"metric": ()}, "not 'empty'"),
        ({"max_drop": -1}, "the drop allowed must be at least 0 and less than 100 points, not -1"),
        ({"max_drop": float("nan")}, "less than 100 points, not nan"),
        ({"alpha": 0}, "alpha must be more than 0 and less than 1, not 0"),
        ({"unit": "seed"}, "unit must be checkpoint or method, not 'seed'"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(InvalidInput, match=words):
        check([entry()], [entry()], **options)


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
