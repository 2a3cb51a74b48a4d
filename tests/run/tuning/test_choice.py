"""The simulation behind the score of a trial, and its table in docs/tuning.md."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from doc_scripts import doc_script

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    return doc_script("simulations/tuning_choice")


def test_the_table_in_the_documentation_is_what_is_printed(simulation, capsys):
    simulation.main()
    assert capsys.readouterr().out.strip() in (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")


def test_the_mean_over_epochs_and_a_second_seed_pick_wrongly_least_often(simulation, monkeypatch):
    monkeypatch.setattr(simulation, "DRAWS", 600)
    found = {key: wrong for key, (wrong, _) in simulation.play(0.02, 15).items()}
    best = found["mean of epochs", 2]
    assert best < found["mean of epochs", 1] < found["last epoch", 1]
    assert best < found["best epoch", 2] < found["last epoch", 2]


def test_scores_and_picks_by_hand(simulation):
    found = np.array([[[[0.8, 0.2], [0.6, 0.6]], [[0.5, 0.5], [0.3, 0.9]]]])  # one draw, two settings, two epochs
    scores = simulation.score(found)
    assert np.allclose(scores["last epoch"], [[0.6, 0.45]])
    assert np.allclose(scores["best epoch"], [[0.6, 0.5]])
    assert np.allclose(scores["mean of epochs"], [[0.475, 0.475]])
    assert np.allclose(scores["mean classes"], [[0.475, 0.475]])
    first, second = np.array([[0.5, 0.4, 0.3]]), np.array([[0.1, 0.4, 0.9]])
    assert simulation.pick(first, None) == 0
    assert simulation.pick(first, second) == 1  # the third is no finalist
