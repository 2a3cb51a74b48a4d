"""The verdicts of an unfinished attack, one line per batch, so that a killed process loses only the batch in flight."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

from fairbench.errors import FairbenchError
from fairbench.evaluation.batches import BatchVerdicts
from fairbench.files import open_regular

__all__ = ["Journal"]

# A written line survives a killed process at once, and a power failure after the next sync.
_SYNC_SECONDS = 2.0


class Journal:
    """The verdicts of one attack on one model, kept in the file `path` while the attack runs.

    `about` holds the settings that the verdicts depend on, as JSON values; a file with other settings is overwritten.
    `cost` is called after every batch; `spent` is the last cost that a killed process stored.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], cost: Callable[[], Mapping[str, float]] = dict) -> None:
        self.path = path
        self.about = json.loads(json.dumps(about))
        self.cost = cost
        self.spent: dict[str, Any] = {}
        self.batches: list[BatchVerdicts] = []
        self._synced = time.monotonic()
        self._length = self._read()

    def append(self, batch: BatchVerdicts) -> None:
        """Add the verdicts of the next images; raises FairbenchError when the disk is full or the file cannot be
        written.
        """
        lines = [] if self._length else [_line({"about": self.about})]
        lines.append(_line({"predicted": batch.predicted, "components": batch.components, "cost": {**self.cost()}}))
        content = b"".join(lines)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Links are not followed, because files beside the results may come from an untrusted source.
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
        """Delete the file; the verdicts have been stored elsewhere."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> int:
        """Read the complete lines of a file with the same settings; returns their length in bytes."""
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
            self.batches.append(BatchVerdicts(content["predicted"], content["components"]))
            self.spent = content["cost"]
            length += len(line)
        return length


def _line(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":")).encode()
    return b"%08x %s\n" % (crc32(text), text)


def _content(line: bytes) -> dict[str, Any] | None:
    """Return the content of a line, or None for a truncated or altered line."""
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % crc32(text):
        return None
    content: dict[str, Any] = json.loads(text)
    return content
