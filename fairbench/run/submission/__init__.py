"""Checks of a stranger's run folders, before they may join the committed results.

Nothing that a folder names is executed: its weights must be for a registered model, its attacks may not name code.
"""

from __future__ import annotations

from fairbench.run.submission.check import check_submission, find_run_folders
from fairbench.run.submission.outcome import SubmissionOutcome

__all__ = ["SubmissionOutcome", "check_submission", "find_run_folders"]
