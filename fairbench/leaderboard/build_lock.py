"""Builds of a suite's leaderboards by one process at a time, which keep files that were edited by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from fairbench.errors import FairbenchError
from fairbench.files import atomic, checksum, locked, read_json, refuse_links, set_aside, write_json

__all__ = ["build_alone"]


def build_alone(folder: Path, build: Callable[[], list[Path]]) -> list[Path]:
    """Call `build` while no other process builds into `folder`, and return the files it wrote.

    A build reads all results after it has taken the lock, so the last of several builds includes the results of all. A
    file that is neither the output of the last build nor that of this one was edited by hand: it is set aside, and
    stderr says so. The output of a killed build does not count as edited. Raises the errors of `build`, and
    InvalidInput if the folder or its parent is a link.
    """
    refuse_links(folder, levels=2)
    state = folder / ".builds.lock"  # has the suffix of a lock, which version control ignores
    with locked(folder / "boards"):
        known, killed_at = _last_build(state)
        changed = {name: folder / name for name in known if (folder / name).is_file()}
        copies = {
            name: path.read_bytes()
            for name, path in changed.items()
            if checksum(path) != known[name] and not (killed_at and path.stat().st_mtime_ns >= killed_at)
        }
        write_json(state, {"files": known, "building": True})
        try:
            paths = build()
        except Exception:  # an interrupt may come after a file was written
            write_json(state, {"files": known})
            raise
        written = {path.name: checksum(path) for path in paths}
        for name, content in copies.items():
            if sha256(content).hexdigest() != written.get(name):
                aside = _keep(folder / name, content)
                print(f"{folder / name}: edited since its build; kept as {aside} and rebuilt", file=sys.stderr)
        write_json(state, {"files": written})
        return paths


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


def _keep(path: Path, content: bytes) -> str:
    """Store the content of an edited file under the name of a damaged file, and return the name."""
    left = path.with_name(f".{path.name}.left")
    with atomic(left) as temporary:
        temporary.write_bytes(content)
    return set_aside(left, path.name).name
