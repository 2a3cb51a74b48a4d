"""The files of a site on a disk: every file is written whole, and files of an earlier build are removed."""

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
PAGE = re.compile(r"([A-Za-z0-9_+][A-Za-z0-9_.+-]*/)?[A-Za-z0-9_+][A-Za-z0-9_.+-]*\.(html|csv)")


def write_pages(pages: Mapping[str, str], out: Path) -> list[Path]:
    """Write pages, given as text by path relative to `out`, and return their paths.

    A manifest in `out` keeps their checksums. A page of the manifest that is not among `pages` is removed unless its
    content was changed since; other files in the folder stay as they are. Raises CorruptFile for a damaged manifest.
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
    """Read the checksums of the last build's pages from the manifest; empty before the first build."""
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
    """Remove a page if its content is unchanged, and its folder if it is then empty; links are not followed."""
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file() or checksum(path) != written:
        return
    path.unlink()
    if path.parent != out:
        with suppress(OSError):  # not empty
            path.parent.rmdir()
