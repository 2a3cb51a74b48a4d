from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairbench.errors import InvalidInput
from fairbench.statistics import figures, metrics
from fairbench.statistics.intervals import clopper_pearson, worst_intervals

# Ten images of three classes (4, 4, 2): 3/4, 1/4 and 2/2 survive; one verdict is -1, broken with no class named.
LABELS = [0, 1, 0, 1, 2, 0, 1, 0, 1, 2]
PREDICTED = [0, 1, 2, 0, 2, 0, -1, 0, 0, 2]

quick = settings(deadline=None, max_examples=80)


@st.composite
def verdicts(draw, num_classes=4, max_size=60):
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=max_size))
    predicted = draw(st.lists(st.integers(-1, num_classes - 1), min_size=len(labels), max_size=len(labels)))
    return np.array(labels), np.array(predicted)


accuracies = st.lists(st.floats(0, 1), min_size=1, max_size=30).map(np.array)


def test_counts_and_accuracies_by_hand():
    assert metrics.images_per_class(LABELS, 3).tolist() == [4, 4, 2]
    assert metrics.class_correct(LABELS, PREDICTED, 3).tolist() == [3, 1, 2]
    assert metrics.class_accuracy(LABELS, PREDICTED, 3).tolist() == [0.75, 0.25, 1.0]
    assert metrics.average(LABELS, PREDICTED) == 0.6


def test_confusion_by_hand_leaves_out_breaks_that_name_no_class():
    assert metrics.confusion(LABELS, PREDICTED, 3).tolist() == [[3, 0, 1], [2, 1, 0], [0, 0, 2]]


@quick
@given(verdicts())
def test_confusion_holds_every_named_verdict(case):
    labels, predicted = case
    table = metrics.confusion(labels, predicted, 4)
    assert np.diag(table).tolist() == metrics.class_correct(labels, predicted, 4).tolist()
    assert table.sum() == np.sum(predicted >= 0)


@pytest.mark.parametrize(
    ("classes", "lowest"), [(1, 1), (10, 1), (14, 1), (16, 2), (20, 2), (43, 4), (100, 10), (200, 20)]
)
def test_worst10_averages_a_tenth_of_the_classes(classes, lowest):
    accuracy = np.arange(classes)[::-1] / classes
    assert figures.worst10(accuracy) == pytest.approx(np.arange(lowest).mean() / classes)


def test_absent_classes_are_left_out():
    labels, predicted = np.array([0, 0, 2, 2, 3, 3]), np.array([0, 1, 2, 2, 0, 1])
    found = metrics.summarise(labels, predicted, 5)
    assert np.isnan(found.per_class).tolist() == [False, True, False, False, True]
    assert (found.worst, found.worst_class, found.gap) == (0.0, 3, 1.0)
    assert found.nsd == float(figures.normalized_deviation(np.array([0.5, 1.0, 0.0])))
    assert np.isnan(metrics.class_accuracy([0, 2], [0, 2], 4)).tolist() == [False, True, False, True]


def test_worst_class_is_the_first_in_a_tie():
    assert metrics.summarise([0, 1, 1, 2, 2], [0, 1, 0, 2, 0], 3).worst_class == 1


def test_a_mean_of_zero_has_no_relative_spread():
    assert math.isnan(figures.normalized_deviation(np.zeros(2)))
    assert math.isnan(figures.nsd_corrected(np.zeros(2), np.array([5, 5])))
    assert math.isnan(figures.gini(np.zeros(2)))


@quick
@given(st.floats(0.01, 1), st.integers(1, 100))
def test_equal_classes_have_no_spread(share, classes):
    accuracy = np.full(classes, share)
    for spread in (figures.normalized_deviation(accuracy), figures.gini(accuracy), figures.gap(accuracy)):
        assert spread == pytest.approx(0, abs=1e-12)
    assert figures.nsd_corrected(accuracy, np.full(classes, 50)) == pytest.approx(0, abs=1e-12)


@quick
@given(accuracies, st.randoms(use_true_random=False))
def test_figures_are_bounded_and_blind_to_the_order_of_classes(accuracy, random):
    shuffled = np.array(random.sample(list(accuracy), len(accuracy)))
    for figure in (figures.worst10, figures.gap, figures.normalized_deviation, figures.gini):
        assert figure(shuffled) == pytest.approx(figure(accuracy), nan_ok=True, abs=1e-9)
    assert accuracy.min() <= figures.worst10(accuracy) + 1e-12
    assert figures.worst10(accuracy) <= accuracy.mean() + 1e-12
    if accuracy.mean() > 1e-6:
        size = len(accuracy)
        assert -1e-9 <= figures.gini(accuracy) <= 1 - 1 / size + 1e-9
        assert 0 <= figures.normalized_deviation(accuracy) <= math.sqrt(size - 1) + 1e-9
        assert 0 <= figures.nsd_corrected(accuracy, np.full(size, 20)) <= figures.normalized_deviation(accuracy) + 1e-12


@quick
@given(st.lists(st.floats(0.01, 0.5), min_size=1, max_size=20).map(np.array))
def test_relative_spread_is_blind_to_scale(accuracy):
    assert figures.normalized_deviation(2 * accuracy) == pytest.approx(figures.normalized_deviation(accuracy), abs=1e-9)
    assert figures.gini(2 * accuracy) == pytest.approx(figures.gini(accuracy), abs=1e-9)


def test_nsd_corrected_by_hand():
    # Variance 0.04, mean 0.5; sampling adds (2-1)/2 * (0.3*0.7/10 + 0.7*0.3/20) / 2 = 0.007875.
    assert figures.nsd_corrected(np.array([0.3, 0.7]), np.array([11, 21])) == pytest.approx(
        math.sqrt(0.04 - 0.007875) / 0.5
    )
    assert figures.nsd_corrected(np.array([0.45, 0.55]), np.array([11, 11])) == 0
    assert math.isnan(figures.nsd_corrected(np.array([0.0, 1.0]), np.array([1, 5])))


def test_class_halves_are_even_and_odd_occurrences():
    assert metrics.class_halves([0, 1, 0, 1, 1, 0, 2], 3).tolist() == [True, True, False, False, True, True, True]


@quick
@given(verdicts())
def test_class_halves_are_balanced_within_every_class(case):
    labels, _ = case
    first = metrics.class_halves(labels, 4)
    surplus = metrics.images_per_class(labels, 4) - 2 * np.bincount(labels[first], minlength=4)
    assert set(surplus.tolist()) <= {0, -1}


def test_worst_crossfit_by_hand():
    # Class 0: halves 2/2 and 0/2; class 1: halves 1/2 and 2/2. Each half accuses the class that the other acquits.
    labels = [0, 0, 0, 0, 1, 1, 1, 1]
    predicted = [0, 1, 0, 1, 1, 1, 0, 1]
    found = metrics.summarise(labels, predicted, 2)
    assert (found.worst_crossfit, found.worst) == (1.0, 0.5)


def test_worst_crossfit_needs_an_image_in_each_half():
    assert math.isnan(metrics.summarise([0, 1], [1, 1], 2).worst_crossfit)
    assert metrics.summarise([0, 1, 1], [1, 1, 0], 2).worst_crossfit == 0.5


@quick
@given(verdicts(), st.randoms(use_true_random=False))
def test_order_of_images_matters_only_to_crossfit_and_there_only_between_halves(case, random):
    labels, predicted = case
    before = metrics.summarise(labels, predicted, 4).as_dict()
    everywhere = np.array(random.sample(range(len(labels)), len(labels)))
    after = metrics.summarise(labels[everywhere], predicted[everywhere], 4).as_dict()
    assert same({**before, "worst_crossfit": 0}, {**after, "worst_crossfit": 0})

    first = metrics.class_halves(labels, 4)
    within = np.arange(len(labels))
    for group, half in itertools.product(range(4), (True, False)):
        members = np.flatnonzero((labels == group) & (first == half))
        within[members] = random.sample(members.tolist(), len(members))
    assert same(before, metrics.summarise(labels, predicted[within], 4).as_dict())


def test_union_takes_the_first_break_in_protocol_order():
    labels = [0, 0, 0, 0, 0, 0]
    pgd, cw = [0, 1, 0, 1, -1, -1], [0, 0, 2, 2, 2, 0]
    assert metrics.union(labels, {"pgd": pgd, "cw": cw}).tolist() == [0, 1, 2, 1, 2, -1]
    assert metrics.union(labels, {"cw": cw, "pgd": pgd}).tolist() == [0, 1, 2, 2, 2, -1]
    assert metrics.union(labels, {"pgd": pgd}).tolist() == pgd


def test_union_keeps_a_break_that_a_later_attack_does_not_find():
    # The second attack fails on a broken image; the break must stand, -1 included.
    assert metrics.union([3, 3], {"a": [1, -1], "b": [3, 3]}).tolist() == [1, -1]


@quick
@given(st.data(), verdicts())
def test_union_breaks_what_any_attack_breaks_in_any_order(data, case):
    labels, one = case
    size = len(labels)
    others = [np.array(data.draw(st.lists(st.integers(-1, 3), min_size=size, max_size=size))) for _ in range(2)]
    attacks = dict(zip("abc", (one, *others), strict=True))
    survived = np.all([verdict == labels for verdict in attacks.values()], axis=0)
    named = np.any([(verdict != labels) & (verdict >= 0) for verdict in attacks.values()], axis=0)
    for order in itertools.permutations(attacks):
        combined = metrics.union(labels, {name: attacks[name] for name in order})
        assert (combined == labels).tolist() == survived.tolist()
        assert (combined == -1).tolist() == (~survived & ~named).tolist()
    assert metrics.union(labels, {"x": combined, "y": combined}).tolist() == combined.tolist()


def test_summary_by_hand():
    summary = metrics.summarise(LABELS, PREDICTED, 3)
    assert (summary.n, summary.average, summary.worst, summary.worst_class, summary.gap) == (10, 0.6, 0.25, 1, 0.75)
    assert (summary.average_lo, summary.average_hi) == tuple(float(bound) for bound in clopper_pearson(6, 10))
    assert (summary.worst_lo, summary.worst_hi) == tuple(map(float, worst_intervals([3, 1, 2], [4, 4, 2])))
    older = metrics.summarise_all(LABELS, {"": PREDICTED}, 3, corrected_below=True)[""]
    assert older.worst_lo == float(clopper_pearson(1, 4, 0.05 / 3)[0]) < summary.worst_lo
    # Halves of class 0: [0, 0] and [2, 0]; class 1: [1, -1] and [0, 0]; class 2: [2] and [2]. Both accuse class 1.
    assert summary.worst_crossfit == (0 / 2 + 1 / 2) / 2
    assert summary.per_class.tolist() == [0.75, 0.25, 1.0]
    assert summary.per_class_lo.tolist() == clopper_pearson([3, 1, 2], [4, 4, 2])[0].tolist()
    assert summary.per_class_hi.tolist() == clopper_pearson([3, 1, 2], [4, 4, 2])[1].tolist()
    assert summary.class_n.tolist() == [4, 4, 2]


@quick
@given(verdicts())
def test_summary_agrees_with_the_single_functions(case):
    labels, predicted = case
    summary = metrics.summarise(labels, predicted, 4)
    accuracy, counts = metrics.class_accuracy(labels, predicted, 4), metrics.images_per_class(labels, 4)
    present = accuracy[counts > 0]
    expected = {
        "average": metrics.average(labels, predicted),
        "worst": present.min(),
        "worst10": figures.worst10(present),
        "nsd": figures.normalized_deviation(present),
        "nsd_corrected": figures.nsd_corrected(present, counts[counts > 0]),
        "gap": figures.gap(present),
        "gini": figures.gini(present),
    }
    assert same(expected, {name: getattr(summary, name) for name in expected})
    assert 0 <= summary.average_lo <= summary.average <= summary.average_hi <= 1
    assert 0 <= summary.worst_lo <= summary.worst <= summary.worst_hi <= 1
    absent = counts == 0
    assert np.isnan(summary.per_class_lo).tolist() == np.isnan(summary.per_class_hi).tolist() == absent.tolist()


@quick
@given(st.data(), verdicts())
def test_many_summaries_at_once_are_those_of_each_to_the_bit(data, case):
    labels, predicted = case
    others = st.lists(st.integers(-1, 3), min_size=len(labels), max_size=len(labels))
    every = {"own": predicted, "all": labels, "none": np.full(len(labels), -1), "other": data.draw(others)}
    found = metrics.summarise_all(labels, every, 4)
    assert list(found) == list(every)
    for name, one in every.items():
        assert repr(found[name].as_dict()) == repr(metrics.summarise(labels, one, 4).as_dict())
    assert metrics.summarise_all(labels, {}, 4) == {}


def test_summary_as_dict_is_plain_and_in_order():
    values = metrics.summarise(LABELS, PREDICTED, 3).as_dict()
    assert json.loads(json.dumps(values)) == values
    assert list(values)[:4] == ["n", "average", "average_lo", "average_hi"]
    assert values["class_n"] == [4, 4, 2]


def test_wider_intervals_at_a_smaller_alpha():
    usual, careful = (metrics.summarise(LABELS, PREDICTED, 3, alpha) for alpha in (0.05, 0.01))
    assert careful.average_lo < usual.average_lo
    assert careful.worst_hi > usual.worst_hi
    assert np.all(careful.per_class_lo < usual.per_class_lo)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.summarise([], [], 3), "labels must be a vector with at least one entry"),
        (lambda: metrics.summarise([[0]], [[0]], 3), r"not shape \(1, 1\)"),
        (lambda: metrics.summarise([0, 1], [0], 3), "predicted has 1 entries where 2 are expected"),
        (lambda: metrics.summarise([0, 3], [0, 0], 3), r"labels\[1\] is 3, outside 0..2 \(3 classes\)"),
        (lambda: metrics.summarise([0, -1], [0, 0], 3), r"labels\[1\] is -1"),
        (lambda: metrics.summarise([0, 1], [0, -3], 3), r"predicted\[1\] is -3, outside -2..2"),
        (lambda: metrics.summarise([0, 1], [3, 0], 3), r"predicted\[0\] is 3"),
        (lambda: metrics.summarise([0.0, 1.0], [0, 1], 3), "labels must be whole numbers, not float64"),
        (lambda: metrics.summarise([0, 1], [0, 1], 3, alpha=5), "alpha"),
        (lambda: metrics.images_per_class([0, 7], 3), r"labels\[1\] is 7"),
        (lambda: metrics.average([0, 1], [0]), "predicted has 1 entries"),
        (lambda: metrics.union([0, 1], {}), "at least one attack"),
        (lambda: metrics.union([0, 1], {"pgd": [0]}), "verdicts of 'pgd' has 1 entries where 2"),
    ],
)
def test_bad_input_is_one_line_that_says_where(call, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("n", "minimum", "spread"), [(1000, 0.426, 0.032), (100, 0.374, 0.102)])
def test_equal_classes_look_unequal_on_a_finite_test_set(n, minimum, spread):
    drawn = class_shares(np.full(10, 0.45), n)
    assert np.mean([one.min() for one in drawn]) == pytest.approx(minimum, abs=0.002)
    assert np.mean([figures.normalized_deviation(one) for one in drawn]) == pytest.approx(spread, abs=0.002)


@pytest.mark.parametrize("n", [1000, 100])
@pytest.mark.parametrize("truth", [np.full(10, 0.45), np.linspace(0.40, 0.50, 10), np.linspace(0.20, 0.70, 10)])
def test_nsd_corrected_is_closer_to_the_truth(truth, n):
    drawn = class_shares(truth, n)
    plain = np.mean([figures.normalized_deviation(one) for one in drawn])
    corrected = np.mean([figures.nsd_corrected(one, np.full(10, n)) for one in drawn])
    exact = truth.std() / truth.mean()
    assert plain > exact
    assert abs(corrected - exact) < 0.5 * (plain - exact)


def test_worst_and_worst_crossfit_bracket_the_truth():
    truth = np.linspace(0.40, 0.50, 10)
    labels = np.repeat(np.arange(10), 100)
    rng = np.random.default_rng(5)
    low, high = [], []
    for _ in range(1500):
        predicted = np.where(rng.random(len(labels)) < truth[labels], labels, -1)
        found = metrics.summarise(labels, predicted, 10)
        low.append(found.worst)
        high.append(found.worst_crossfit)
    assert np.mean(low) < 0.40 - 0.02
    assert 0.40 + 0.01 < np.mean(high) < 0.45


def test_worst_crossfit_is_unbiased_when_classes_are_equal():
    labels = np.repeat(np.arange(10), 100)
    rng = np.random.default_rng(6)
    draws = (np.where(rng.random(len(labels)) < 0.45, labels, -1) for _ in range(1500))
    assert np.mean([metrics.summarise(labels, predicted, 10).worst_crossfit for predicted in draws]) == pytest.approx(
        0.45, abs=0.005
    )


def class_shares(truth: np.ndarray, n: int, test_sets: int = 2000) -> np.ndarray:
    return np.random.default_rng(4).binomial(n, truth, size=(test_sets, len(truth))) / n


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k], equal_nan=True) for k in one)


def test_images_outside_an_attacks_subset_count_nowhere():
    labels = np.array([0, 0, 0, 1, 1, 1])
    part = np.array([0, 1, metrics.OUTSIDE, 1, -1, metrics.OUTSIDE])
    found = metrics.summarise_all(labels, {"whole": labels, "part": part, "again": labels}, 2)
    assert list(found) == ["whole", "part", "again"]
    alone = metrics.summarise([0, 0, 1, 1], [0, 1, 1, -1], 2)
    assert same(found["part"].as_dict(), alone.as_dict())
    assert (found["whole"].n, found["part"].n, found["part"].class_n.tolist()) == (6, 4, [2, 2])
    assert same(metrics.summarise(labels, part, 2).as_dict(), alone.as_dict())
    assert metrics.average(labels, part) == 0.5
    assert metrics.class_accuracy(labels, part, 2).tolist() == [0.5, 0.5]
    assert metrics.class_correct(labels, part, 2).tolist() == [1, 1]
    assert metrics.confusion(labels, part, 2).tolist() == [[1, 1], [0, 1]]
    with pytest.raises(InvalidInput, match=r"^part: no image is inside the attack's subset$"):
        metrics.summarise_all(labels, {"part": np.full(6, metrics.OUTSIDE)}, 2)


def test_a_union_is_over_the_images_that_every_attack_saw():
    labels = np.array([0, 0, 1, 1])
    whole, part = np.array([0, 1, 0, 1]), np.array([1, metrics.OUTSIDE, metrics.OUTSIDE, 1])
    for both in ({"a": whole, "b": part}, {"b": part, "a": whole}):
        assert metrics.union(labels, both).tolist() == [1, metrics.OUTSIDE, metrics.OUTSIDE, 1]


def test_occurrences_count_earlier_images_of_the_class():
    assert metrics.occurrences(np.array([2, 0, 2, 2, 0])).tolist() == [0, 0, 1, 2, 1]
