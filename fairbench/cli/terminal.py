"""Printed text without control sequences: names come from files and must not control the terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from fairbench.errors import UNPRINTABLE

__all__ = ["printable"]

# Bold and coloured letters, which help pages use.
_STYLE = re.compile(r"(\x1b\[(?:(?:0|[1-4]|2[2-4]|3[0-79]|9[0-7])(?:;(?=\d)|(?=m)))*m)")


@contextmanager
def printable() -> Iterator[None]:
    """Print control characters as escapes; bold and coloured letters remain, on a terminal only.

    The stderr of a terminal stays as it is, because the progress display moves its cursor.
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
    """A stream that escapes control characters; everything but `write` is the stream's own."""

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
        """Drop output for a reader that closed its pipe, as `head` does; the command keeps its exit code."""
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
