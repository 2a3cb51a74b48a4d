"""What docs/gate.md promises of the gate's default, drawn by the committed simulation."""

from __future__ import annotations

from types import ModuleType

import pytest
from doc_scripts import DOCS, doc_script

from fairbench.gate import levels


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    return doc_script("simulations/gate_default")


def test_what_is_drawn_is_the_gates_own_division(simulation):
    metrics = ("worst", "average", "class")
    assert tuple(levels.share(name, metrics, 1) for name in metrics) == simulation.DEFAULT


@pytest.mark.parametrize("discordance", [0.12, 0.25])
def test_with_1000_images_a_class_a_drop_of_one_class_by_10_points_is_found(simulation, discordance):
    # At least 90 %; 60 draws of a truth of 90 % give less than 80 % once in 100.
    found = simulation.failures(1000, simulation.MIDDLE, 0.10, 60, discordance=discordance)
    assert found >= 0.9


def test_with_50_images_it_is_seldom_found_and_a_drop_of_30_points_is(simulation):
    assert simulation.failures(50, simulation.MIDDLE, 0.10, 200) <= 0.25
    assert simulation.failures(50, simulation.MIDDLE, 0.30, 200) >= 0.9


def test_the_worst_class_alone_misses_what_another_class_loses(simulation):
    alone = simulation.DIVISIONS["worst alone"]
    assert simulation.failures(50, simulation.MIDDLE, 0.20, 200, alone) <= 0.05
    assert simulation.failures(50, simulation.MIDDLE, 0.20, 200) >= 0.5


def test_at_the_edge_of_what_is_tolerated_false_alarms_are_at_most_alpha(simulation):
    # 0.05 and three standard errors of 300 draws.
    assert simulation.failures(50, simulation.ALL, simulation.MAX_DROP, 300) <= 0.05 + 3 * 0.0126


@pytest.mark.slow
def test_the_tables_of_the_documentation_are_what_the_script_prints(simulation):
    page = (DOCS / "gate.md").read_text(encoding="utf-8")
    for title, header, rows in simulation.tables(1000):
        assert f"{title}:" in page
        for cells in (header, *rows):
            assert f"| {' | '.join(cells)} |" in page
