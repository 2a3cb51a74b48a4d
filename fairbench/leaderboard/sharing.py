"""One build for all who wait: of many processes that ask for the same boards at once, few have to work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from fairbench.errors import FairbenchError
from fairbench.files import atomic, checksum, locked, read_json, set_aside, write_json

__all__ = ["shared_build"]


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def shared_build(
    folder: Path,
    results: Path,
    build: Callable[[], list[Path]],
    say: Callable[[str], None] = _tell,
) -> list[Path]:
    """Call `build` while no other process builds into `folder`, and return the files it wrote.

    It is not called where another build of the same results began after this request: that one saw all that this one
    would see. A build that was killed counts as none. A file that is neither what the last build wrote nor what this
    one writes was changed by other hands: it is set aside, and `say` is told. Raises what `build` raises.
    """
    state = folder / ".builds.lock"  # named as a lock is, so that it stays out of version control
    asked = _read(state).get("begun", 0)
    with locked(folder / "boards"):
        before = _read(state)
        source, known = str(results.resolve()), before.get("files", {})
        if before.get("ended", 0) > asked and before["results"] == source and _untouched(folder, known):
            return [folder / name for name in known]
        begun = before.get("begun", 0) + 1
        write_json(state, {"begun": begun})
        changed = {name: folder / name for name in known if (folder / name).is_file()}
        copies = {name: path.read_bytes() for name, path in changed.items() if checksum(path) != known[name]}
        paths = build()
        files = {path.name: checksum(path) for path in paths}
        for name, content in copies.items():
            if sha256(content).hexdigest() != files.get(name):
                say(f"{folder / name}: not what was built; kept as {_keep(folder / name, content)}, and made again")
        write_json(state, {"begun": begun, "ended": begun, "results": source, "files": files})
        return paths


def _read(state: Path) -> dict[str, Any]:
    """What is known of earlier builds; nothing if there were none or the file is damaged, then all is built anew."""
    try:
        found = read_json(state)
    except FairbenchError:
        return {}
    return found if isinstance(found, dict) else {}


def _keep(path: Path, content: bytes) -> str:
    """Store what a file held under the name that a damaged one is moved to, and return the name."""
    left = path.with_name(f".{path.name}.left")
    with atomic(left) as temporary:
        temporary.write_bytes(content)
    return set_aside(left, path.name).name


def _untouched(folder: Path, files: dict[str, str]) -> bool:
    return all((folder / name).is_file() and checksum(folder / name) == known for name, known in files.items())
