"""The search of one method or prerequisite: its trials, those that are finished, and what they choose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from fairbench.run.settings import frozen_ids, source_of
from fairbench.run.tuning.scores import score_over_seeds
from fairbench.run.tuning.search import Candidate, Planned, choose_setting, planned
from fairbench.run.tuning.table import TrialRow
from fairbench.run.tuning.trials import needed_by, row_of, space_of, trial_run
from fairbench.suites.chosen import Choice
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import Suite, Tuning

__all__ = ["Search"]


@dataclass
class Search:
    """The trials of one method or prerequisite: `base` is its run with the suite's recipe and its frozen teachers."""

    base: RunSpec
    suite: Suite
    num_classes: int
    rows: dict[Planned, TrialRow] = field(default_factory=dict)

    @property
    def tuning(self) -> Tuning:
        """The lists and numbers that all methods of the suite share."""
        return self.suite.tuning or Tuning()

    @property
    def budget(self) -> str:
        """The budget that the chosen settings will have."""
        return self.suite.budget(self.base.data_hash, self.tuning.trials)

    def trials(self) -> list[Planned]:
        """The trials that the scores so far define."""
        return planned(space_of(self.base, self.tuning, self.num_classes), self.scores())

    def run(self, trial: Planned) -> RunSpec:
        """The run of a trial."""
        return trial_run(self.base, trial, self.tuning, self.suite, self.num_classes)

    def scores(self) -> dict[Planned, float]:
        """Scores of the finished trials; minus infinity for a training that diverged."""
        return {trial: -math.inf if row.score is None else row.score for trial, row in self.rows.items()}

    def seeds(self) -> set[int]:
        """All seeds that its trials may have."""
        first, last = self.tuning.seeds, self.tuning.seeds[-1]
        return {*first, *range(last + 1, last + 1 + self.tuning.trials)}

    def harvest(self, results: Path, known: Sequence[TrialRow]) -> list[RunSpec]:
        """Take the rows of finished trials from the table or from their run folders; return the runs still to do."""
        table = {row.run_id: row for row in known}
        while True:
            missing = [(number, trial) for number, trial in enumerate(self.trials()) if trial not in self.rows]
            found: dict[Planned, TrialRow] = {}
            for number, trial in missing:
                spec = self.run(trial)
                row = table.get(spec.run_id) or row_of(number, spec, trial.candidate, self.budget, results)
                if row is not None:
                    own = {"method": self.base.label, "trial": number, "budget": self.budget}
                    found[trial] = row.model_copy(update=own)
            self.rows |= found
            if len(found) < len(missing) or not missing:
                return [self.run(trial) for _, trial in missing if trial not in found]

    def choice(self) -> Choice | None:
        """The settings that the finished trials choose, None if every trial diverged."""
        scores = self.scores()
        best = choose_setting(self.trials(), scores)
        rows = [row for trial, row in self.rows.items() if trial.candidate == best and row.score is not None]
        if not rows:
            return None
        value, error = score_over_seeds([row.score or 0.0 for row in rows], [row.score_se or 0.0 for row in rows])
        return Choice(
            recipe=dict(best.recipe),
            options=dict(best.options),
            trials=self.tuning.trials,
            budget=self.budget,
            source=source_of(self.base.method, self.base.source_hash),
            prerequisites=frozen_ids(needed_by(self.base)),
            frozen=None if self.base.role == "student" else self._frozen(best),
            score=round(value, 6),
            score_se=round(error, 6),
            average=_mean(rows, "average"),
            worst=_mean(rows, "worst"),
            seeds=len(rows),
        )

    def _frozen(self, best: Candidate) -> str:
        chosen = self.run(Planned(best, self.base.seed))
        settings = {"recipe": chosen.recipe, "method": chosen.method}
        return self.base.model_copy(update=settings).frozen_id


def _mean(rows: Sequence[TrialRow], name: str) -> float:
    return round(fmean(float(getattr(row, name)) for row in rows), 6)
