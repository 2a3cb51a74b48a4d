"""The gate's operating curve: what docs/gate.md promises, drawn by the committed simulation."""

from __future__ import annotations

from types import ModuleType

import pytest
from doc_scripts import DOCS, doc_script

from fairbench.statistics.significance import minimum_detectable_difference


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    return doc_script("simulations/gate_power")


@pytest.mark.parametrize("discordance", [0.03, 0.07, 0.20])
def test_without_a_drop_the_gate_fails_at_most_alpha_of_the_time(simulation, discordance):
    # 0.05 and three standard errors of 4000 draws.
    assert simulation.detection(discordance, 0.0, 0.0, 4000) <= 0.05 + 3 * 0.0034


def test_a_drop_of_two_points_of_a_thousand_images_is_found_more_often_than_not(simulation):
    assert simulation.detection(0.07, 0.02, 0.0, 4000) >= 0.60
    # The same without drawing: what power 60 % finds is less than two points.
    assert minimum_detectable_difference(1000, 0.07, power=0.60) < 0.02


def test_a_family_costs_power_and_no_false_alarms(simulation):
    found = [simulation.family_detection(family, 0.02, 1000) for family in (1, 10)]
    assert found[0] > found[1] > 0.2
    assert simulation.family_detection(10, 0.0, 1000) <= 0.05 + 3 * 0.007


def test_the_worst_class_as_a_single_comparison(simulation):
    # One class far below the others: what the default metric, with nothing else, finds of 2 and 3 points.
    truth = simulation.PROFILES["one class far below the others"]
    assert simulation.worst_detection(truth, "worst", 150) >= 0.80
    assert simulation.worst_detection(truth, "none", 150) <= 0.05 + 3 * 0.018


@pytest.mark.slow
def test_the_tables_of_the_documentation_are_what_the_script_prints(simulation):
    page = (DOCS / "gate.md").read_text(encoding="utf-8")
    for title, header, rows in simulation.tables(2000):
        assert f"{title}:" in page
        for cells in (header, *rows):
            assert f"| {' | '.join(cells)} |" in page
