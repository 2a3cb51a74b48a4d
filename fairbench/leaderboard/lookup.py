"""The leaderboard CSV that a user names by a suite, a file or a URL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairbench import registry
from fairbench.errors import InvalidInput, Missing
from fairbench.results.address import public
from fairbench.suites.suite import suite_paths

__all__ = ["committed_folder", "find_board", "find_boards", "known_boards", "versions_of"]

BOARDS = "leaderboards"
PACKAGE = Path(__file__).resolve().parents[1]


def committed_folder() -> Path:
    """Return the folder of the committed boards: `./leaderboards`, or else the copy that the package ships.

    A wheel holds the boards inside the package. An editable installation reads them from its checkout.
    """
    places = (Path(BOARDS), PACKAGE / BOARDS, PACKAGE.parent / BOARDS)
    return next((place for place in places if place.is_dir()), places[1])


def versions_of(folder: Path) -> list[Path]:
    """Return the boards `v<N>.csv` of a suite's folder, the newest version first."""
    found = [path for path in folder.glob("v*.csv") if path.stem[1:].isdecimal()]
    return sorted(found, key=lambda path: -int(path.stem[1:]))


def find_board(board: str, root: Path) -> Path:
    """Return the CSV that a user names: a file, the newest leaderboard of a suite, or `SUITE/v<N>`.

    Leaderboards below `root` precede the committed ones. Raises Missing, and InvalidInput for a URL that is no CSV.
    """
    from fairbench.results import remote  # imports SciPy, which listings do without

    if "://" in board and not (remote.is_url(board) and board.endswith(".csv")):
        raise InvalidInput(f"{public(board)}: a board at a URL is a file that ends in .csv")
    if board.endswith(".csv"):
        return remote.fetch_results(board) if remote.is_url(board) else Path(board)
    suite, _, version = board.partition("/")
    for place in (root / BOARDS, committed_folder()):
        for path in versions_of(place / suite):
            if version in ("", path.stem):
                return path
    hint = f"; `fairbench run {board}` makes one" if board in suite_paths() else ""
    shipped = ", ".join(path.name for path in sorted(committed_folder().glob("*")) if versions_of(path))
    if suite in registry.methods.scan():
        of = f"; `fairbench show {board}` shows a run" if version else ""
        raise Missing(f"{suite} is a method, not a board{of}; committed boards: {shipped or 'none'}")
    raise Missing(f"{root / BOARDS / board}: no leaderboard{hint}; committed boards: {shipped or 'none'}")


def find_boards(names: Sequence[str], root: Path) -> list[Path]:
    """Return the CSVs of suites, all versions with the newest first, and of files; raises Missing."""
    found: dict[Path, None] = {}
    for name in names:
        newest = find_board(name, root)
        whole_suite = not name.endswith(".csv") and "/" not in name
        found |= dict.fromkeys(versions_of(newest.parent) if whole_suite else [newest])
    return list(found)


def known_boards(folder: Path) -> list[Path]:
    """Return every leaderboard below a folder of leaderboards, including those of custom settings."""
    return [path for path in sorted(folder.glob("*/v*.csv")) if not path.name.endswith(".classes.csv")]
