"""Make a suite's board in limited time: lots of methods in order of priority, each tuned, then run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gpu.process import Ended, Run
from gpu.reserve import fitting
from gpu.steps import Row
from gpu.time_limit import TimeLimit
from gpu.workspace import Workspace

__all__ = ["Maker"]

LEAST = 15.0  # seconds left below which no command starts
BUILDING = 40.0  # seconds that building a board may take, of those reserved for the end


@dataclass
class Maker:
    """Makes one board: `run` executes commands in the workspace, `keep` packs what is there after each of them.

    `rows` says how each command ended; `finished` holds the methods all of whose runs are complete.
    """

    space: Workspace
    time_limit: TimeLimit
    run: Run
    jobs: int
    keep: Callable[[], object] = lambda: None
    rows: list[Row] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)

    def make(self, lots: Sequence[Sequence[str]], *, tune: bool) -> None:
        """Tune and run lot by lot; go on with what the lots left unfinished as long as time is left and it helps."""
        before = -1
        while before < (before := self._progress()) and self.time_limit.left() >= LEAST:
            for lot in lots:
                self._lot([name for name in lot if name not in self.finished], tune)
            if any(row.state == "failed" for row in self.rows):
                break

    def build(self) -> None:
        """Build the board of all complete runs, those of an interrupted command among them, and print it to a log."""
        if self.space.costs(self.jobs).evaluations:
            self._command("build", ["leaderboard", "build", self.space.suite.name, "--publish"], BUILDING)
            self._log("show").unlink(missing_ok=True)
            self._command("show", ["leaderboard", "show", str(self.space.board())], BUILDING)

    def summary(self) -> str:
        """How each command ended, the board, and the methods without complete runs."""
        shown = self._log("show")
        board = shown.read_text(encoding="utf-8") if shown.exists() else "no run is complete"
        lines = [f"{row.state:<10}  {row.seconds:6.1f} s  {row.step}  {row.text}".rstrip() for row in self.rows]
        return "\n".join([*lines, "", board])

    def _lot(self, methods: Sequence[str], tune: bool) -> None:
        own = [name for name in methods if name not in self.space.suite.inherits]
        if tune and own:
            words = ["tune", self.space.suite.name, "--methods", ",".join(own)]
            self._stage(f"tune {','.join(own)}", words, self._reserved(methods))
        ready = self.space.tuned(methods) if tune else list(methods)
        if ready:
            ready = fitting(ready, self._seeds, self.space.costs(self.jobs), self.time_limit.left())
            if self._stage(f"run {','.join(ready)}", ["run", self.space.suite.name, "--methods", ",".join(ready)]):
                self.finished.update(ready)

    def _reserved(self, methods: Sequence[str]) -> Callable[[], bool]:
        """Whether the time left is needed for the runs of the methods that are tuned or being tuned."""
        costs = self.space.costs(self.jobs)

        def reached() -> bool:
            known = replace(costs, trials=self.space.trials())
            begun = [name for name in methods if known.trials.get(name)]
            return self.time_limit.left() < known.span(begun, self._seeds)

        return reached

    @property
    def _seeds(self) -> int:
        return len(self.space.suite.seeds)

    def _progress(self) -> int:
        return sum(map(len, self.space.trials().values())) + len(self.finished)

    def _stage(self, name: str, words: Sequence[str], enough: Callable[[], bool] = lambda: False) -> bool:
        """Run a command in the time left; return whether it came to its end."""
        left = self.time_limit.left()
        if left < LEAST:
            self.rows.append(Row(name, "skipped", 0.0, "out of time"))
            return False
        print(f"{name}: starts; {left:.0f} s are left", flush=True)
        ended = self._command(name, [*words, "--jobs", str(self.jobs), "--publish"], left, enough)
        print(f"{name}: {ended.state}, {ended.seconds:.0f} s", flush=True)
        self.keep()
        return ended.state == "done"

    def _command(
        self, name: str, words: Sequence[str], limit: float, enough: Callable[[], bool] = lambda: False
    ) -> Ended:
        log = self._log(name.partition(" ")[0])
        command = [sys.executable, "-m", "fairbench", *words]
        ended = self.run(command, log, limit, cwd=self.space.folder, enough=enough)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        self.rows.append(Row(name, ended.state, ended.seconds, last[:160] if ended.state == "failed" else ""))
        return ended

    def _log(self, name: str) -> Path:
        return self.space.folder / f"{name}.log"
