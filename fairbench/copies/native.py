"""C for the processor at hand: compiled once with the system's compiler, for those parts that torch is too slow for."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

__all__ = ["compiler", "library", "pointer"]

_FLAGS = ["-O3", "-std=gnu11", "-shared", "-fPIC"]
# What the processor can do beyond its family's least member, as torch found it, and the numbers of a vector.
_PROCESSOR = {"AVX512": ["-march=x86-64-v4", "-DLANES=16"], "AVX2": ["-march=x86-64-v3", "-DLANES=8"]}
_ANY_PROCESSOR = ["-DLANES=4"]
_SECONDS = 60


def compiler() -> list[str] | None:
    """The command of a C compiler that knows GCC's vectors, $CC first; None where there is none."""
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    commands = [name.split() for name in names if name.strip()]
    return next((command for command in commands if shutil.which(command[0])), None)


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """Compile a file of C and load it; None where that cannot be done.

    The result is kept in `~/.cache/fairbench/native`, under a name that says what it was made from and for.
    """
    flags = [*_FLAGS, *_PROCESSOR.get(torch.backends.cpu.get_cpu_capability(), _ANY_PROCESSOR)]
    try:
        code = source.read_bytes()
        made_from = "\n".join((*flags, platform.system(), platform.machine())).encode() + code
        name = f"{source.stem}-{hashlib.sha256(made_from).hexdigest()[:16]}.so"
        return _kept(source, flags, name) or _passing(source, flags, name)
    except (OSError, subprocess.SubprocessError):
        return None


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    """Where a tensor's numbers begin; the caller keeps it alive."""
    return ctypes.c_void_p(tensor.data_ptr())


def _kept(source: Path, flags: list[str], name: str) -> ctypes.CDLL | None:
    """The library from the cache, made there where missing or broken; None where it cannot be kept or loaded.

    What others could have written is not loaded: the folder and the file must be this user's alone to change.
    """
    try:
        folder = Path.home() / ".cache" / "fairbench" / "native"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _is_private(folder.resolve()):
            return None
        with suppress(OSError):
            if _is_private(folder / name):
                return ctypes.CDLL(str(folder / name))
        _sweep(folder)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = _compile(source, flags, Path(work) / name)
            made.chmod(0o700)
            made.replace(folder / name)
        return ctypes.CDLL(str(folder / name))
    except (OSError, RuntimeError):
        return None


def _is_private(path: Path) -> bool:
    """Whether a folder or a file, and no link, belongs to this user and nobody else may write to it."""
    found = path.lstat()
    kind = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return kind and found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _sweep(folder: Path) -> None:
    """Remove the working folders of compilers that were killed: they are older than a compilation may take."""
    for left in folder.glob("tmp*"):
        with suppress(OSError):
            if left.is_dir() and time.time() - left.stat().st_mtime > 2 * _SECONDS:
                shutil.rmtree(left)


def _passing(source: Path, flags: list[str], name: str) -> ctypes.CDLL:
    """The library for this process alone; what is loaded needs no file any more."""
    with tempfile.TemporaryDirectory() as work:
        return ctypes.CDLL(str(_compile(source, flags, Path(work) / name)))


def _compile(source: Path, flags: list[str], made: Path) -> Path:
    command = compiler()
    if command is None:
        raise FileNotFoundError("no C compiler")
    subprocess.run([*command, *flags, str(source), "-o", str(made)], check=True, capture_output=True, timeout=_SECONDS)
    return made
