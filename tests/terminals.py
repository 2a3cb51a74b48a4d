"""A terminal to print to."""

from __future__ import annotations

import io


class Terminal(io.StringIO):
    """A stream that is a terminal of `$COLUMNS` columns."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True
