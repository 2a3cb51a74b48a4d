"""What is known of an evaluation in flight, a line a batch, so that a killed process loses the batch it was at."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from fairbench.errors import FairbenchError
from fairbench.files import open_regular

__all__ = ["Batch", "Journal"]

# What was written is safe from the death of the process at once; from that of the machine once it is synced.
_SYNC_SECONDS = 2.0


class Batch(NamedTuple):
    """The verdicts of consecutive images: the class predicted, and the same for each component of an ensemble."""

    predicted: list[int]
    components: dict[str, list[int]]


class Journal:
    """The verdicts of one attack on one model, in the file `path` while the attack goes on.

    `about` says in JSON values what the verdicts depend on: a file about something else is written over. `cost` is
    asked at every batch, and what it last said before the process died is `spent`.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], cost: Callable[[], Mapping[str, float]] = dict) -> None:
        self.path = path
        self.about = json.loads(json.dumps(about))
        self.cost = cost
        self.spent: dict[str, Any] = {}
        self.batches: list[Batch] = []
        self._synced = time.monotonic()
        self._length = self._read()

    def append(self, batch: Batch) -> None:
        """Add the verdicts of the next images; raises FairbenchError when the disk is full or cannot be written."""
        lines = [] if self._length else [_line({"about": self.about})]
        lines.append(_line({"predicted": batch.predicted, "components": batch.components, "cost": {**self.cost()}}))
        content = b"".join(lines)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Not through a link: what is beside the results may come from a stranger.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(self.path, flags, 0o666), "r+b") as file:
                file.truncate(self._length)
                file.seek(self._length)
                file.write(content)
                file.flush()
                if time.monotonic() - self._synced >= _SYNC_SECONDS:
                    os.fsync(file.fileno())
                    self._synced = time.monotonic()
        except OSError as error:
            raise FairbenchError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        self._length += len(content)

    def remove(self) -> None:
        """Remove the file: the verdicts are where they belong."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> int:
        """Take in the whole lines of a file that is about the same; returns their length in bytes."""
        try:
            with open_regular(self.path) as file:
                lines = file.read().splitlines(keepends=True)
        except (OSError, FairbenchError):
            return 0
        if not lines or _content(lines[0]) != {"about": self.about}:
            return 0
        length = len(lines[0])
        for line in lines[1:]:
            content = _content(line)
            if content is None or not content.keys() >= {"predicted", "components", "cost"}:
                break
            self.batches.append(Batch(content["predicted"], content["components"]))
            self.spent = content["cost"]
            length += len(line)
        return length


def _line(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":")).encode()
    return b"%08x %s\n" % (crc32(text), text)


def _content(line: bytes) -> dict[str, Any] | None:
    """Return what a line says, or None for one that was not written whole or has changed since."""
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % crc32(text):
        return None
    content: dict[str, Any] = json.loads(text)
    return content
