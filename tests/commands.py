"""A command in a process of its own: its end, its log until something is in it, and what of its board varies."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

MEASURED = ["train_seconds", "eval_seconds", "images_per_second", "peak_memory_mb"]
MEASURED += ["created", "device", "command", "commit", "dirty"]


def ended(process: subprocess.Popen[str]) -> SimpleNamespace:
    """Wait for a command; its exit code, its output, and the lines of its stderr."""
    out, err = process.communicate(timeout=300)
    return SimpleNamespace(code=process.returncode, out=out, err=err.splitlines())


def read_until(process: subprocess.Popen[str], *wanted: str) -> list[str]:
    """Read the log until every one of these has been in it."""
    log: list[str] = []
    for line in process.stderr:
        log.append(line.rstrip())
        if all(any(text in line for line in log) for text in wanted):
            return log
    raise AssertionError("\n".join(log))
