"""The main job: a suite from plan to leaderboard."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairbench import leaderboard
from fairbench.config import load_suite, suite_paths
from fairbench.errors import InvalidInput, Missing
from fairbench.launch import launch, progress_view
from fairbench.plan import plan

__all__ = ["find_board", "run"]


def run(
    suite: str,
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    quick: bool = False,
    root: Path = Path("fairbench-out"),
    plugins: Sequence[str] = (),
    command: str = "",
) -> Path:
    """Bring every run of a suite to completion below `root`, rebuild its boards, and return the board of these runs.

    Raises what planning, training and evaluation raise; runs that finished before are not run again.
    """
    chosen = load_suite(suite)
    chosen = chosen.as_quick() if quick else chosen
    specs = plan(chosen, methods=methods, seeds=seeds, overrides=overrides, plugins=plugins, command=command)
    if not any(spec.role == "student" for spec in specs):
        raise InvalidInput(f"suite {suite}: nothing to run: no methods or no seeds")
    with progress_view() as view:
        launch(specs, root / "results", jobs=jobs or os.cpu_count() or 1, view=view)
    paths = leaderboard.build(root / "results", root / "leaderboards", chosen.name)
    last = specs[-1]
    name = leaderboard.board_name(str(last.version), {"hash": last.protocol, "custom": last.custom})
    return next(path for path in paths if path.name == f"{name}.csv")


def find_board(board: str, root: Path) -> Path:
    """Return the CSV a user means: a file, or the newest version of a suite's board; raises Missing."""
    if board.endswith(".csv"):
        return Path(board)
    folder = root / "leaderboards" / board
    paths = [path for path in folder.glob("v*.csv") if "." not in path.stem]
    if paths:
        return max(paths, key=lambda path: int(path.stem.removeprefix("v")))
    known = suite_paths()
    hint = f"; `fairbench run {board}` makes one" if board in known else ""
    raise Missing(f"{folder}: no leaderboard{hint}")
