"""Pairs of a board's methods compared over seeds: one test for every document that states a difference."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from fairbench.errors import InvalidInput
from fairbench.leaderboard.differences import pairs_by_seeds
from fairbench.leaderboard.seed_spread import class_ratios, spread_of
from fairbench.statistics.moderated import moderated_test
from fairbench.statistics.significance import holm

PAIRS = [("wide", "m0"), ("m1", "m0"), ("m0", "absent"), ("once", "m0")]


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    """Six methods that vary by a point over three seeds, one that varies by eight, and one with a single seed."""
    rng = np.random.default_rng(0)
    rows = []
    for method, spread in [*((f"m{number}", 0.01) for number in range(6)), ("wide", 0.08), ("once", 0.01)]:
        for seed in range(1 if method == "once" else 3):
            classes = 0.5 + 0.1 * (method == "wide") + spread * rng.standard_normal(4)
            row = {"method": method, "seed": str(seed), "attack": "union", "worst": classes.min(), "nsd": math.nan}
            rows.append(row | {f"class_{number}": value for number, value in enumerate(classes)})
    return pd.DataFrame(rows)


def test_each_difference_has_the_moderated_test_that_knows_how_far_its_methods_spread(runs):
    found = pairs_by_seeds(runs, PAIRS, ["worst", "nsd"])
    ratios, spread = class_ratios(runs), spread_of(runs, "worst")
    sides = {name: runs.loc[runs["method"] == name, "worst"].to_numpy() for name in ("wide", "m0", "m1")}
    for method in ("wide", "m1"):
        pair = (ratios[method], ratios["m0"])
        expected = moderated_test(sides[method], sides["m0"], spread, one_of_many=True, ratios=pair)
        one = found[method, "m0", "worst", "union"]
        assert (one.raw, one.low, one.high) == (expected.p, expected.low, expected.high)
        assert one.difference == pytest.approx(sides[method].mean() - sides["m0"].mean())
    alone = moderated_test(sides["wide"], sides["m0"], spread, one_of_many=True)
    assert found["wide", "m0", "worst", "union"].raw > alone.p


def test_holms_correction_is_over_what_was_tested_and_the_rest_has_no_p(runs):
    found = pairs_by_seeds(runs, PAIRS, ["worst", "nsd"])
    keys = [(method, "m0", "worst", "union") for method in ("wide", "m1")]
    assert [found[key].p for key in keys] == pytest.approx(holm([found[key].raw for key in keys]))
    assert not any(key[1] == "absent" for key in found)
    untested = [found["once", "m0", "worst", "union"], found["wide", "m0", "nsd", "union"]]
    assert all(math.isnan(one.raw) and math.isnan(one.p) and one.winner == "" for one in untested)


def test_a_figure_that_the_board_lacks_is_named(runs):
    with pytest.raises(InvalidInput, match="no figure 'worts'"):
        pairs_by_seeds(runs, PAIRS, ["worts"])
