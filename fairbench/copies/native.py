"""C code for this machine's processor, compiled once by the system's compiler, for what torch computes too slowly."""

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
# Compiler flags for the instruction set that torch has found, with the number of floats in a vector.
_PROCESSOR = {"AVX512": ["-march=x86-64-v4", "-DLANES=16"], "AVX2": ["-march=x86-64-v3", "-DLANES=8"]}
_ANY_PROCESSOR = ["-DLANES=4"]
_SECONDS = 60


def compiler() -> list[str] | None:
    """Return the command of a C compiler with GCC's vector extension, $CC first; None if there is none."""
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    commands = [name.split() for name in names if name.strip()]
    return next((command for command in commands if shutil.which(command[0])), None)


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """Compile a C file and load it; return None if that fails.

    The library is kept in `~/.cache/fairbench/native` under a name that hashes its source, flags and platform.
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
    """Return the address of a tensor's data; the caller keeps the tensor alive."""
    return ctypes.c_void_p(tensor.data_ptr())


def _kept(source: Path, flags: list[str], name: str) -> ctypes.CDLL | None:
    """Load the library from the cache, compiling it first if it is missing or broken; None if that is impossible.

    A library that another user could have written is not loaded: folder and file must be writable by this user only.
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
            compiled = _compile(source, flags, Path(work) / name)
            compiled.chmod(0o700)
            compiled.replace(folder / name)
        return ctypes.CDLL(str(folder / name))
    except (OSError, RuntimeError):
        return None


def _is_private(path: Path) -> bool:
    """Tell whether a path is a folder or regular file, no link, that this user owns and nobody else may write to."""
    found = path.lstat()
    kind = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return kind and found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _sweep(folder: Path) -> None:
    """Remove working folders of killed compilers: those older than a compilation may take."""
    for left in folder.glob("tmp*"):
        with suppress(OSError):
            if left.is_dir() and time.time() - left.stat().st_mtime > 2 * _SECONDS:
                shutil.rmtree(left)


def _passing(source: Path, flags: list[str], name: str) -> ctypes.CDLL:
    """Compile and load the library for this process only; a loaded library no longer needs its file."""
    with tempfile.TemporaryDirectory() as work:
        return ctypes.CDLL(str(_compile(source, flags, Path(work) / name)))


def _compile(source: Path, flags: list[str], target: Path) -> Path:
    command = compiler()
    if command is None:
        raise FileNotFoundError("no C compiler")
    words = [*command, *flags, str(source), "-o", str(target)]
    subprocess.run(words, check=True, capture_output=True, timeout=_SECONDS)
    return target
