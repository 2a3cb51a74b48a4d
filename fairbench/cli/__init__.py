"""The command line: parse, call, render. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import sys

try:
    from fairbench.cli.app import app, main
except ImportError as error:  # exit code 1 means a regression, so an incomplete installation ends with 2
    print(f"fairbench: the installation is incomplete: {error}", file=sys.stderr)
    sys.exit(2)

__all__ = ["app", "main"]
