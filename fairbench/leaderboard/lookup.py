"""Which leaderboard CSV a user means by a suite's name, a file or a URL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairbench.errors import InvalidInput, Missing
from fairbench.results import remote
from fairbench.results.address import public
from fairbench.suites.suite import suite_paths

__all__ = ["find_board", "find_boards"]


def find_board(board: str, root: Path) -> Path:
    """Return the CSV a user means: a file, or the newest version of a suite's board; raises Missing, InvalidInput."""
    if "://" in board and not (remote.is_url(board) and board.endswith(".csv")):
        raise InvalidInput(f"{public(board)}: a board at a URL is a file that ends in .csv")
    if board.endswith(".csv"):
        return remote.fetch(board) if remote.is_url(board) else Path(board)
    folder = root / "leaderboards" / board
    versions = {int(path.stem[1:]): path for path in folder.glob("v*.csv") if path.stem[1:].isdecimal()}
    if versions:
        return versions[max(versions)]
    known = suite_paths()
    hint = f"; `fairbench run {board}` makes one" if board in known else ""
    raise Missing(f"{folder}: no leaderboard{hint}")


def find_boards(names: Sequence[str], root: Path) -> list[Path]:
    """Return the CSVs of suites, every version the newest first, and those named as files; raises Missing."""
    found: dict[Path, None] = {}
    for name in names:
        newest = find_board(name, root)
        versions = [newest]
        if not name.endswith(".csv"):
            older = (path for path in newest.parent.glob("v*.csv") if path.stem[1:].isdecimal())
            versions = sorted(older, key=lambda path: -int(path.stem[1:]))
        found |= dict.fromkeys(versions)
    return list(found)
