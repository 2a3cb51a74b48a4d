"""The steps that put a method on a board, as its page lists them."""

from __future__ import annotations

import shlex
import statistics

from fairbench.leaderboard.columns import ROLES
from fairbench.report.html.boards import Board
from fairbench.report.html.page import Values
from fairbench.statistics.significance import MIN_SEEDS

__all__ = ["submission_steps"]


def submission_steps(board: Board) -> list[Values]:
    """Return the steps that put a method on this board: a sentence, and the command of it where there is one."""
    suite = shlex.quote(board.name)
    counts = [len(group.runs) for (name, *_), group in board.groups.items() if name not in ROLES]
    seeds = max([MIN_SEEDS, *statistics.multimode(counts)])
    steps = [
        (
            "Fork and clone the repository, install it, write methods/NAME.py, a working example at first, and commit.",
            "pip install -e . && fairbench new-method NAME",
        ),
        ("Check the method on generated data.", "fairbench methods check NAME"),
        (
            "Where the suite has a tuning budget, choose the settings with it.",
            f"fairbench tune {suite} --methods NAME --publish",
        ),
        (
            "Copy the settings to those that the package ships, N the version of the suite.",
            f"cp tuning/{suite}/vN.yaml fairbench/suites/tuned/{suite}-vN.yaml",
        ),
        (
            f"Train and evaluate {seeds} seeds, as most methods of this board have. Each gets a run folder.",
            f"fairbench run {suite} --methods NAME --seeds {','.join(map(str, range(seeds)))} --publish",
        ),
        (
            "Check the run folders: checksums, protocol, budget, verdicts made again from the weights, no local path, "
            "no secret. The pull request must pass this check.",
            f"fairbench results check results/{suite}/NAME",
        ),
        ("Put the rows on the board.", f"fairbench leaderboard build {suite} --publish"),
        (
            "Open a pull request with the method, its settings, the run folders and the board. CI repeats the check "
            "and the build.",
            "",
        ),
    ]
    return [{"text": text, "command": command} for text, command in steps]
