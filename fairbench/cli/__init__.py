"""The command line: parse, call, render. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

from fairbench.cli.app import app, main

__all__ = ["app", "main"]
