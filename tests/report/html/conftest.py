"""The site that the tests of this folder look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from two_boards import ROOT, TRAP, scaled

from fairbench.report.html import site


class BuiltSite(NamedTuple):
    """The folder of a site, the files that the build wrote, and the boards it shows."""

    folder: Path
    written: list[Path]
    boards: list[Path]


@pytest.fixture(scope="session")
def built(write_board: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> BuiltSite:
    """A site of a committed board with its runs, and of a hand-made board."""
    folder = tmp_path_factory.mktemp("site")
    methods = {
        "fair": {seed: scaled(1 - 0.05 * seed) for seed in range(3)},
        "plain": {seed: scaled(0.8 - 0.05 * seed) for seed in range(3)},
        TRAP: {0: scaled(0.5)},
        "teacher": {0: scaled(0.9)},
    }
    flagged = write_board(folder / "leaderboards/tiny/v1.csv", methods, policies="steer", flags="steps")
    boards = [ROOT / "leaderboards/cifar10-micro/v1.csv", flagged]
    return BuiltSite(folder / "site", site.build_site(boards, folder / "site"), boards)
