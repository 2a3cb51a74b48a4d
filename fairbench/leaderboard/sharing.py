"""One build for all who wait: of many processes that ask for the same boards at once, few have to work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairbench.errors import FairbenchError
from fairbench.files import checksum, locked, read_json, write_json

__all__ = ["shared_build"]


def shared_build(folder: Path, results: Path, build: Callable[[], list[Path]]) -> list[Path]:
    """Call `build` while no other process builds into `folder`, and return the files it wrote.

    It is not called where another build of the same results began after this request: that one saw all that this one
    would see. A build that was killed counts as none. Raises what `build` raises.
    """
    state = folder / ".builds.lock"  # named as a lock is, so that it stays out of version control
    asked = _read(state).get("begun", 0)
    with locked(folder / "boards"):
        before = _read(state)
        source = str(results.resolve())
        if before.get("ended", 0) > asked and before["results"] == source and _untouched(folder, before["files"]):
            return [folder / name for name in before["files"]]
        begun = before.get("begun", 0) + 1
        write_json(state, {"begun": begun})
        paths = build()
        files = {path.name: checksum(path) for path in paths}
        write_json(state, {"begun": begun, "ended": begun, "results": source, "files": files})
        return paths


def _read(state: Path) -> dict[str, Any]:
    """What is known of earlier builds; nothing if there were none or the file is damaged, then all is built anew."""
    try:
        found = read_json(state)
    except FairbenchError:
        return {}
    return found if isinstance(found, dict) else {}


def _untouched(folder: Path, files: dict[str, str]) -> bool:
    return all((folder / name).is_file() and checksum(folder / name) == known for name, known in files.items())
