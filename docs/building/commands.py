"""The reference of the command line, from the Typer application."""

from __future__ import annotations

import html
import re
import subprocess
import sys

__all__ = ["page"]

TITLE = """# Command-line reference

`fairbench COMMAND --help` prints the same. Exit codes: 0 success, 1 a regression that `fairbench check` found, 2 bad
input or another error, 130 an interruption. `--debug` with any command shows the traceback of an error.
"""


def page() -> str:
    """Return every command with its arguments and options, as Typer's own generator writes them."""
    command = [sys.executable, "-m", "typer", "fairbench.cli", "utils", "docs", "--name", "fairbench"]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    _, _, commands = html.unescape(written).partition("\n## ")
    commands = re.sub(r"^Example: (.*)$", r"Example:\n\n```console\n$ \1\n```", commands, flags=re.MULTILINE)
    return f"{TITLE}\n## {commands}"
