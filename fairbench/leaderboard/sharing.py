"""One process at a time builds the boards of a suite, and a board that was edited by hand is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from fairbench.errors import FairbenchError
from fairbench.files import atomic, checksum, locked, read_json, refuse_links, set_aside, write_json

__all__ = ["build_alone"]


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def build_alone(folder: Path, build: Callable[[], list[Path]], say: Callable[[str], None] = _tell) -> list[Path]:
    """Call `build` while no other process builds into `folder`, and return the files it wrote.

    A build reads all results after it has taken the lock, so the last of several builds holds what all of them saw. A
    file that is neither what the last build wrote nor what this one writes was edited by hand: it is set aside, and
    `say` is told. Raises what `build` raises, and InvalidInput where the folder or the one above it is a link.
    """
    refuse_links(folder, levels=2)
    state = folder / ".builds.lock"  # named as a lock is, so that it stays out of version control
    with locked(folder / "boards"):
        known = _checksums(state)
        changed = {name: folder / name for name in known if (folder / name).is_file()}
        copies = {name: path.read_bytes() for name, path in changed.items() if checksum(path) != known[name]}
        paths = build()
        written = {path.name: checksum(path) for path in paths}
        for name, content in copies.items():
            if sha256(content).hexdigest() != written.get(name):
                say(f"{folder / name}: not what was built; kept as {_keep(folder / name, content)}, and made again")
        write_json(state, {"files": written})
        return paths


def _checksums(state: Path) -> dict[str, str]:
    """Checksums of the files of the last build, by name; none before the first, or where the state is damaged."""
    try:
        found = read_json(state)
    except FairbenchError:
        return {}
    files = found.get("files") if isinstance(found, dict) else None
    return {name: value for name, value in files.items() if Path(name).name == name} if isinstance(files, dict) else {}


def _keep(path: Path, content: bytes) -> str:
    """Store what a file held under the name that a damaged one is moved to, and return the name."""
    left = path.with_name(f".{path.name}.left")
    with atomic(left) as temporary:
        temporary.write_bytes(content)
    return set_aside(left, path.name).name
