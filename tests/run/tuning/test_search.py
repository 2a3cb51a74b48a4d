from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairbench.run.tuning.scores import score, score_over_seeds
from fairbench.run.tuning.search import Candidate, Planned, Space, choose_setting, planned

RATES = (0.05, 0.1, 0.2, 0.4)


def space(trials: int = 8, **changes) -> Space:
    return Space(RATES, **{"knobs": (("m.beta", (1.0, 3.0)),), "trials": trials, "seeds": (100, 101), **changes})


def at(rate: float, seed: int = 100, **options: float) -> Planned:
    return Planned(Candidate((("lr", rate),), tuple((f"m.{name}", value) for name, value in options.items())), seed)


def finish(of: Space, figure) -> list[Planned]:
    """Play a whole search in which `figure` scores every trial."""
    scores: dict[Planned, float] = {}
    while missing := [trial for trial in planned(of, scores) if trial not in scores]:
        scores |= {trial: figure(trial) for trial in missing}
    return planned(of, scores)


# ---------------------------------------------------------------- which trials


def test_rates_then_the_knob_at_the_best_rate_then_a_second_seed_of_the_two_best():
    figures = {at(0.1): 0.5, at(0.1, beta=3.0): 0.6, at(0.1, beta=1.0): 0.2}
    trials = finish(space(), lambda trial: figures.get(trial, 0.1))
    assert trials == [
        *(at(rate) for rate in RATES),
        at(0.1, beta=1.0),
        at(0.1, beta=3.0),
        at(0.1, seed=101, beta=3.0),
        at(0.1, seed=101),
    ]


def test_without_a_knob_its_trials_are_further_seeds_of_the_two_best():
    trials = finish(space(knobs=()), lambda trial: trial.candidate.recipe[0][1])
    assert trials[4:] == [at(0.4, 101), at(0.2, 101), at(0.4, 102), at(0.2, 102)]  # 102 follows the last seed given


def test_the_settings_of_the_paper_are_tried_after_the_rates_of_the_suite():
    paper = (("lr", 0.1), ("weight_decay", 5e-4))
    trials = finish(space(optimisers=(paper,)), lambda trial: float(trial.candidate.recipe == paper))
    assert [trial.candidate for trial in trials[3:6]] == [
        at(0.4).candidate,
        Candidate(paper),
        Candidate(paper, (("m.beta", 1.0),)),
    ]


def test_of_equal_scores_the_earlier_setting_wins():
    trials = finish(space(), lambda trial: 0.5)
    assert trials[6:] == [at(0.05, 101), at(0.1, 101)]
    assert choose_setting(trials, dict.fromkeys(trials, 0.5)) == at(0.05).candidate


@given(
    st.integers(1, 14),
    st.lists(st.integers(1, 4), max_size=3),
    st.integers(0, 2),
    st.dictionaries(st.tuples(st.floats(0.05, 0.4), st.integers(100, 110)), st.floats(0, 1)),
)
def test_every_method_spends_its_whole_budget_on_different_trials(trials, knobs, optimisers, figures):
    """Whatever its knobs and its scores are, diverged trials included."""
    own = tuple((f"m.k{number}", tuple(range(count))) for number, count in enumerate(knobs))
    extra = tuple((("lr", 0.01 * (number + 1)),) for number in range(optimisers))
    of = space(trials, knobs=own, optimisers=extra)
    found = finish(of, lambda trial: figures.get((trial.candidate.recipe[0][1], trial.seed), -math.inf))
    assert len(found) == len(set(found)) == trials
    assert sum(trial.seed != 100 for trial in found) >= min(2, max(0, trials - 4))
    assert [trial.candidate.recipe for trial in found[:4]] == [(("lr", rate),) for rate in RATES][:trials]


@given(st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_no_later_score_changes_an_earlier_trial(figures):
    of, scores = space(), dict[Planned, float]()
    known: list[Planned] = []
    while missing := [trial for trial in planned(of, scores) if trial not in scores]:
        assert planned(of, scores)[: len(known)] == known
        scores[missing[0]] = figures[len(scores)]
        known = planned(of, scores)


# ---------------------------------------------------------------- which setting


def test_the_mean_over_seeds_decides_between_the_settings_that_have_several():
    trials = [at(0.05), at(0.1), at(0.2), at(0.1, 101), at(0.2, 101)]
    scores = dict(zip(trials, (0.9, 0.6, 0.5, 0.1, 0.3), strict=True))
    assert choose_setting(trials, scores) == at(0.2).candidate  # 0.4 against 0.35; one lucky trial is no finalist
    assert choose_setting(trials[:3], scores) == at(0.05).candidate


def test_diverged_trials_are_never_chosen_over_others():
    trials = [at(0.05), at(0.1)]
    assert choose_setting(trials, {at(0.05): -math.inf, at(0.1): 0.0}) == at(0.1).candidate


# ---------------------------------------------------------------- scores


def history(*epochs: tuple[int, int]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [{"epoch": "0", "held_out[0]": ""}]
    counts = {"held_out_n[0]": "40", "held_out_n[1]": "10"}
    return rows + [{"held_out[0]": str(a), "held_out[1]": str(b), **counts} for a, b in epochs]


def test_a_score_by_hand():
    found = score(history((30, 4), (34, 6)))  # class accuracies 0.75 and 0.4, then 0.85 and 0.6
    assert (found.average, found.worst, found.worst_class, found.n, found.epochs) == (0.74, 0.5, 1, 50, 2)
    assert found.value == pytest.approx(0.62)
    error = math.sqrt(0.4**2 * 0.8 * 0.2 / 40 + (0.1 + 0.5) ** 2 * 0.5 * 0.5 / 10)  # weights n_c / 2n, plus half
    assert found.se == pytest.approx(error)


def test_the_worst_class_is_that_of_each_epoch():
    found = score(history((40, 0), (0, 10), (40, 2)))
    assert (found.worst, found.worst_class) == (pytest.approx(0.2 / 3), 1)
    weights = (0.4 + 1 / 6, 0.1 + 2 / 6)
    variances = (2 / 3 * 1 / 3 / 40, 0.4 * 0.6 / 10)
    assert found.se == pytest.approx(math.sqrt(sum(w**2 * v for w, v in zip(weights, variances, strict=True))))


def test_a_history_without_a_scored_epoch_has_no_score():
    assert score(history()) is None
    assert score([]) is None


def test_the_error_over_seeds_keeps_that_of_the_shared_images():
    assert score_over_seeds([0.5], [0.03]) == (0.5, 0.03)
    value, error = score_over_seeds([0.4, 0.6], [0.03, 0.03])
    assert value == 0.5
    assert error == pytest.approx(math.sqrt(0.03**2 + 0.02 / 2))


def test_no_trial_is_kept_for_seeds_where_the_suite_confirms_nothing():
    space = Space((0.1, 0.3), (("a.knob", (1, 2)),), trials=4, seeds=(7,), confirm=0)
    scores = {}
    while any(trial not in scores for trial in planned(space, scores)):
        for trial in planned(space, scores):
            scores.setdefault(trial, 1.0 if trial.candidate.options else 0.5)
    trials = planned(space, scores)
    assert [trial.candidate.options for trial in trials] == [(), (), (("a.knob", 1),), (("a.knob", 2),)]
    assert {trial.seed for trial in trials} == {7}
    assert choose_setting(trials, scores).options == (("a.knob", 1),)
