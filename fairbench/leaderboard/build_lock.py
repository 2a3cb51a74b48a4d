"""Builds of a suite's leaderboards by one process at a time, which keep files that were edited by hand."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from fairbench.errors import FairbenchError
from fairbench.files import atomic, checksum, locked, read_json, refuse_links, set_aside, write_json

__all__ = ["build_alone"]

LEFT = ".left"  # of `.NAME.left`, the copy of an edited file that a build may replace


def build_alone(folder: Path, build: Callable[[], list[Path]]) -> list[Path]:
    """Call `build` while no other process builds into `folder`, and return the files it wrote.

    A build reads all results after it has taken the lock, so the last of several builds includes the results of all. A
    file that is neither the output of the last build nor that of this one was edited by hand: it is set aside, and
    stderr says so, also where this build fails or is interrupted after it has replaced the file; of a killed build the
    next one says it. What a failed or killed build wrote does not count as edited. Raises the errors of `build`, and
    InvalidInput if the folder or its parent is a link.
    """
    refuse_links(folder, levels=2)
    state = folder / ".builds.lock"  # has the suffix of a lock, which version control ignores
    with locked(folder / "boards"):
        _settle(folder, [path.name[1 : -len(LEFT)] for path in folder.glob(f".v*{LEFT}") if not path.is_symlink()])
        known, killed_at = _last_build(state)
        found = _checksums(folder, known)
        edited = [
            name
            for name, value in found.items()
            if value != known[name] and not (killed_at and (folder / name).stat().st_mtime_ns >= killed_at)
        ]
        for name in edited:
            with atomic(_copy_of(folder / name)) as temporary:
                shutil.copyfile(folder / name, temporary)
        write_json(state, {"files": known, "building": True})
        try:
            paths = build()
            write_json(state, {"files": {path.name: checksum(path) for path in paths}})
        except Exception:  # an interrupt may come while a file is written
            replaced = {name: value for name, value in _checksums(folder, known).items() if value != found.get(name)}
            write_json(state, {"files": {**known, **replaced}})
            raise
        finally:
            _settle(folder, edited)
        return paths


def _copy_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{LEFT}")


def _settle(folder: Path, edited: Iterable[str]) -> None:
    """Keep the copies of edited files that were replaced, under the name of a damaged file, and remove the others."""
    for name in edited:
        path = folder / name
        if path.is_file() and checksum(path) == checksum(_copy_of(path)):
            _copy_of(path).unlink()
        else:
            aside = set_aside(_copy_of(path), name).name
            print(f"{path}: edited since its build; kept as {aside} and rebuilt", file=sys.stderr)


def _checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the checksums of the files that exist."""
    return {name: checksum(folder / name) for name in names if (folder / name).is_file()}


def _last_build(state: Path) -> tuple[dict[str, str], int]:
    """Return the checksums of the last finished build by file name, and the start of a later killed build in ns.

    The checksums are empty before the first build, or if the state is damaged. The time is 0 unless the last build was
    killed.
    """
    try:
        found = read_json(state)
    except FairbenchError:
        return {}, 0
    files = found.get("files") if isinstance(found, dict) else None
    if not isinstance(files, dict):
        return {}, 0
    began = state.stat().st_mtime_ns if found.get("building") else 0
    return {name: value for name, value in files.items() if Path(name).name == name}, began
