"""The origin of a result: code, packages, machine and time."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fairbench.version import __version__

__all__ = ["as_record", "code_state", "created_now", "cuda_version", "package_versions", "processor"]

UNKNOWN = "unknown"
PACKAGES = ("numpy", "pyautoattack", "safetensors", "scikit-learn", "scipy", "torch", "torchvision")


def code_state() -> tuple[str, bool]:
    """Return the commit of the package's checkout and whether its code differs; `("unknown", False)` if none.

    Only a repository that tracks this file counts: a copy inside another repository is not part of its commit.
    """
    home = Path(__file__).resolve().parents[2]
    tracked = set(_git(home, "ls-files", "--", "fairbench", "methods", "setup.cfg").splitlines())
    own = Path(__file__).resolve().relative_to(home).as_posix()
    if not {own, "setup.cfg"} <= tracked or not (home / "setup.cfg").exists():
        return UNKNOWN, False
    present = {path.relative_to(home).as_posix() for path in _sources(home)}
    changed = _git(home, "status", "--porcelain", "--", "fairbench", "methods")
    return _git(home, "rev-parse", "HEAD") or UNKNOWN, bool(changed) or not present <= tracked


def package_versions() -> dict[str, str]:
    """Return the versions of fairbench, Python and the packages that results depend on."""
    found = {"fairbench": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cuda_version() -> dict[str, str]:
    """Return the version of CUDA that torch was built with, as `{"cuda": "12.8"}`; empty for a build without CUDA."""
    import torch

    return {"cuda": torch.version.cuda} if torch.version.cuda else {}


def processor() -> str:
    """Return the model name of the processor, as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def created_now() -> str:
    """Return the time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def as_record() -> dict[str, Any]:
    """Return the values of this module, as `run.json` stores them."""
    commit, dirty = code_state()
    return {
        "commit": commit,
        "dirty": dirty,
        "packages": package_versions() | cuda_version(),
        "processor": processor(),
        "created": created_now(),
    }


def _sources(home: Path) -> Iterator[Path]:
    """Return the Python files of the package and of the methods, including those that git ignores."""
    for name in ("fairbench", "methods"):
        yield from (home / name).rglob("*.py")


def _git(folder: Path, *arguments: str) -> str:
    """Return the output of git for a folder, whatever the environment names; empty on failure."""
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
