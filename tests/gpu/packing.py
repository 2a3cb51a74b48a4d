"""Archives of result files under a limit of number and size, the most valuable files first."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Packed", "Parcel", "pack"]

END = gzip.compress(bytes(1024), mtime=0)  # of a tar archive


@dataclass(frozen=True)
class Parcel:
    """Files that are of use together alone; `paths` are relative to `root`, and so they are in the archive."""

    root: Path
    paths: Sequence[Path]

    @property
    def name(self) -> str:
        """The file, or the folder that all the files are in."""
        return str(self.paths[0] if len(self.paths) == 1 else self.paths[0].parent)


@dataclass
class Packed:
    """The archives that were written, and the names of the parcels that did not fit."""

    archives: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def describe(self) -> list[str]:
        """A line for each archive and for each parcel that did not fit."""
        lines = [f"packed: {path}, {path.stat().st_size / 1e6:.2f} MB" for path in self.archives]
        return lines + [f"left out, over the limits: {name}" for name in self.left_out]


def pack(parcels: Iterable[Parcel], folder: Path, stem: str, *, max_files: int, max_bytes: int) -> Packed:
    """Write the parcels in their order to `folder/<stem>-<number>.tar.gz`, of at most `max_bytes` each.

    A parcel goes whole into the first archive with room for it. Archives of the same stem from an earlier call are
    removed. `tar xzf` reads them; equal files give equal bytes.
    """
    for old in folder.glob(f"{stem}-*.tar.gz"):
        old.unlink()
    contents: list[list[bytes]] = []
    packed = Packed()
    for parcel in parcels:
        blocks = _blocks(parcel)
        size = len(END) + sum(map(len, blocks))
        room = next((found for found in contents if size + sum(map(len, found)) <= max_bytes), None)
        if room is None and size <= max_bytes and len(contents) < max_files:
            contents.append(room := [])
        if room is None:
            packed.left_out.append(parcel.name)
        else:
            room.extend(blocks)
    for number, found in enumerate(contents, 1):
        path = folder / f"{stem}-{number}.tar.gz"
        path.write_bytes(b"".join([*found, END]))
        packed.archives.append(path)
    return packed


def _blocks(parcel: Parcel) -> list[bytes]:
    """Each file as a gzip stream of its own, so that the size of an archive is the sum of its parts."""
    return [_block(path, (parcel.root / path).read_bytes()) for path in parcel.paths]


def _block(path: Path, content: bytes) -> bytes:
    header = tarfile.TarInfo(path.as_posix())
    header.size, header.mode = len(content), 0o644
    data = io.BytesIO()
    data.write(header.tobuf(tarfile.PAX_FORMAT))
    data.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
    return gzip.compress(data.getvalue(), mtime=0)
