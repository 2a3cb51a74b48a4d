"""Tuning: every method finds its settings with the same number of trials, on images that are not the test set."""

from __future__ import annotations

from fairbench.run.tuning.outlook import outlook
from fairbench.run.tuning.show import render_trials
from fairbench.run.tuning.tune import tune

__all__ = ["outlook", "render_trials", "tune"]
