"""The files that tuning has written so far: the table of trials and the chosen settings, below one root folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairbench.errors import InvalidInput
from fairbench.files import write_text
from fairbench.run.tuning.method_search import Search
from fairbench.run.tuning.table import TrialRow, read_table, table_path, write_table
from fairbench.run.tuning.trials import prerequisites_text
from fairbench.suites.chosen import Choice, Chosen, chosen_text, read_chosen, user_path
from fairbench.suites.suite import Suite

__all__ = ["TuningFiles"]


class TuningFiles:
    """The files of one suite's tuning below a root folder; every write leaves whole files."""

    def __init__(self, suite: Suite, root: Path) -> None:
        self.suite = suite
        self.results = root / "results"
        self.table = table_path(root, suite.name, suite.version)
        self._settings = user_path(root, suite.name, suite.version)
        self.rows = read_table(self.table) if self.table.exists() else []

    def keep(self, search: Search) -> None:
        """Replace the method's rows of the search's budget in the table by the rows of the search."""
        own = self._replaced(search)
        self.rows = [row for row in self.rows if row not in own] + list(search.rows.values())
        write_table(self.table, self.rows)

    def protect(self, search: Search) -> None:
        """Raise InvalidInput if the search would replace finished trials on seeds that it does not try.

        Rows of trials on models that have changed since are void, and may go.
        """
        needed = prerequisites_text(search.base)
        lost = [row.seed for row in self._replaced(search) if row.prerequisites == needed]
        other = sorted(set(lost) - search.seeds())
        if other:
            raise InvalidInput(
                f"{self.table}: has trials of {search.base.label} on seed{'s' if len(other) > 1 else ''} "
                f"{', '.join(map(str, other))}, which trials on other seeds would replace: tune with the same --seeds, "
                "or in another folder (--out)"
            )

    def _replaced(self, search: Search) -> list[TrialRow]:
        """The method's rows of the search's budget."""
        return [row for row in self.rows if (row.method, row.budget) == (search.base.label, search.budget)]

    def settle(self, search: Search) -> Choice | None:
        """Write the settings that a finished search chose; if all its trials diverged, remove earlier settings."""
        chosen = Chosen(suite=self.suite.name, version=self.suite.version)
        if self._settings.exists():
            chosen = read_chosen(self._settings, self.suite)
        student, choice = search.base.role == "student", search.choice()
        need = search.base.role.replace("-", "_")
        part, name = ("methods", search.base.label) if student else ("prerequisites", need)
        choices: dict[str, Any] = {key: kept for key, kept in getattr(chosen, part).items() if key != name}
        choices |= {} if choice is None else {name: choice}
        write_text(self._settings, chosen_text(chosen.model_copy(update={part: choices})))
        return choice
