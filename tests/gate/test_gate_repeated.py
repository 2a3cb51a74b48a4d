"""What docs/gate.md says of a gate that runs again and again, drawn by the committed simulation."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from doc_scripts import DOCS, doc_script

from fairbench.gate.decision import check
from fairbench.gate.entry import Entry


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    return doc_script("simulations/gate_repeated")


def test_what_is_drawn_decides_as_the_gate_does(simulation):
    rng = np.random.default_rng(0)
    decided = set()
    for drop in (0.0, 0.1, 0.15, 0.2):
        margins = rng.standard_normal((10, 50))
        sides = [simulation.right(rng, margins, simulation.TRUTH - change) for change in (0.0, drop)]
        known = {
            "labels": np.repeat(np.arange(10), 50),
            "method": "sat",
            "seed": "0",
            "suite": "tiny",
            "protocol": "a1",
        }
        before, after = (
            Entry(side.sum(axis=1), np.full(10, 50), ("clean",), hits=side.ravel(), **known) for side in sides
        )
        outcome = check([before], [after])
        assert simulation.fails(*sides, 0.05) is not outcome.passed
        decided.add(outcome.passed)
    assert decided == {True, False}


def test_two_trainings_differ_on_as_many_images_as_it_says(simulation):
    rng = np.random.default_rng(0)
    margins = rng.standard_normal((1, 200_000))
    one, other = (simulation.right(rng, margins, np.array([0.5])) for _ in range(2))
    assert np.mean(one != other) == pytest.approx(0.12, abs=0.004)
    assert one.mean() == pytest.approx(0.5, abs=0.005)


def test_20_runs_share_alpha_when_they_are_planned(simulation):
    # At the edge of what is tolerated, where false alarms are most frequent.
    assert simulation.repeated(simulation.MAX_DROP, 20, 15, images=200) <= 0.05 + 3 * 0.057
    assert simulation.repeated(simulation.MAX_DROP, 1, 15, images=200) >= 0.2


def test_a_baseline_that_follows_lets_drops_add_up_and_a_pinned_one_does_not(simulation):
    assert simulation.declining(False, 1, 3)[-1] == 0
    assert simulation.declining(True, 40, 5)[-2:] == [1, 1]


def test_seeds_that_spread_by_8_points_make_checkpoints_differ_and_the_unit_method_does_not_mind(simulation):
    assert simulation.retrained(1000, 0.08, 1, 8) >= 0.9
    assert simulation.retrained(50, 0.08, 3, 60) <= 0.05 + 3 * 0.028


@pytest.mark.slow
def test_the_tables_of_the_documentation_are_what_the_script_prints(simulation):
    page = (DOCS / "gate.md").read_text(encoding="utf-8")
    for title, header, rows in simulation.tables(300):
        assert f"{title}:" in page
        for cells in (header, *rows):
            assert f"| {' | '.join(cells)} |" in page
