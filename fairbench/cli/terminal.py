"""What a command prints is text: the names in it come from files, and must not steer the terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from fairbench.errors import UNPRINTABLE

__all__ = ["printable"]

# Weights and colours of letters, which help pages use.
_STYLE = re.compile(r"(\x1b\[(?:(?:0|[1-4]|2[2-4]|3[0-79]|9[0-7])(?:;(?=\d)|(?=m)))*m)")


@contextmanager
def printable() -> Iterator[None]:
    """Show control characters that are printed as escapes; only on a terminal may letters be bold or coloured.

    A progress display on a terminal's stderr steers it by right, and is left alone.
    """
    before = sys.stdout, sys.stderr
    sys.stdout = _Printable(sys.stdout)
    if not sys.stderr.isatty():
        sys.stderr = _Printable(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Printable:
    """A stream with control characters escaped; all but `write` is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._styled = stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        parts = _STYLE.split(text) if self._styled else [text]
        shown = [part if number % 2 else part.translate(UNPRINTABLE) for number, part in enumerate(parts)]
        with self._reader_may_leave():
            self._stream.write("".join(shown))
        return len(text)

    def flush(self) -> None:
        with self._reader_may_leave():
            self._stream.flush()

    @contextmanager
    def _reader_may_leave(self) -> Iterator[None]:
        """Drop what a reader that has left, as `head` does, does not read: the command ends with its own exit code."""
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
