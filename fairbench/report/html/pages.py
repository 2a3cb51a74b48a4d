"""The pages of a site on a disk: written whole, and those of an earlier build that this one does not have, removed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from fairbench.errors import CorruptFile
from fairbench.files import checksum, read_json, refuse_links, write_json, write_text

__all__ = ["MANIFEST", "write_pages"]

MANIFEST = ".fairbench-site.json"
PAGE = re.compile(r"([A-Za-z0-9_+][A-Za-z0-9_.+-]*/)?[A-Za-z0-9_+][A-Za-z0-9_.+-]*\.html")


def write_pages(pages: Mapping[str, str], out: Path) -> list[Path]:
    """Write pages, path relative to `out` to text, and return where they lie.

    Their checksums stay in a manifest beside them. A page that it names and that is not among these any more is
    removed, unless it is no longer what was written; nothing else in the folder is touched. Raises CorruptFile for a
    manifest that is none.
    """
    for name in pages:
        refuse_links((out / name).parent, levels=name.count("/"))
    before = _written_before(out / MANIFEST)
    now = {name: sha256(text.encode()).hexdigest() for name, text in pages.items()}
    write_json(out / MANIFEST, {"pages": before | now})  # first, so that a build that is killed leaves no page unnamed
    for name, text in pages.items():
        write_text(out / name, text)
    for name in sorted(before.keys() - now.keys()):
        _remove(out / name, before[name], out)
    write_json(out / MANIFEST, {"pages": now})
    return [out / name for name in pages]


def _written_before(path: Path) -> dict[str, str]:
    """Pages of the last build and their checksums; none before the first."""
    if not path.exists():
        return {}
    found = read_json(path)
    pages = found.get("pages") if isinstance(found, dict) else None
    if not isinstance(pages, dict) or not all(isinstance(one, str) for one in pages.values()):
        raise CorruptFile(f"{path}: not the list of pages that a site was built with", path)
    strange = next((name for name in pages if not PAGE.fullmatch(name)), None)
    if strange is not None:
        raise CorruptFile(f"{path}: {strange!r:.80} is no page of a site", path)
    return pages


def _remove(path: Path, written: str, out: Path) -> None:
    """Remove a page if it is what was written, and its folder if nothing else is in it; a link is never followed."""
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file() or checksum(path) != written:
        return
    path.unlink()
    if path.parent != out:
        with suppress(OSError):  # not empty
            path.parent.rmdir()
