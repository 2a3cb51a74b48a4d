"""The result of checking a run folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["SubmissionOutcome"]


@dataclass(frozen=True)
class SubmissionOutcome:
    """The result of checking one run folder: its faults, and the verdicts that were reproduced or not tried."""

    path: Path
    wrong: list[str] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
