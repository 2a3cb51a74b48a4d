"""Tuning: every method finds its settings with the same number of trials, on images that are not the test set."""

from __future__ import annotations

from fairbench.run.tuning.dry_run import render_plan
from fairbench.run.tuning.show import render_trials
from fairbench.run.tuning.tune import tune

__all__ = ["render_plan", "render_trials", "tune"]
