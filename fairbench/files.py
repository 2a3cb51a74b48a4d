"""Files that are whole or not there: atomic writes, checksums and locks."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fairbench.errors import CorruptFile, FairbenchError, Missing

__all__ = ["atomic", "checksum", "locked", "read_json", "set_aside", "write_json", "write_text"]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is synced and renamed to it, on any failure removed.

    Raises FairbenchError in one line when the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise FairbenchError(f"{path}: cannot be written: {error.strerror}") from None
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, SafetensorError) as error:  # safetensors wraps what the system says about a full disk
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise FairbenchError(f"{path}: cannot be written: {reason}") from None
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock named by `path` (plus `.lock`); `waiting` is called when another process holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.with_name(f".{path.name}.lock").open("w")
    except OSError as error:
        raise FairbenchError(f"{path}: cannot be written: {error.strerror}") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, floats exactly."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; raises Missing and CorruptFile."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Missing(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path}: not valid JSON: {error}", path) from None
    except OSError as error:
        raise Missing(f"{path}: cannot be read: {error.strerror}") from None


def checksum(path: Path) -> str:
    """Sha256 of a file's bytes, in hex."""
    return sha256(path.read_bytes()).hexdigest()


def set_aside(path: Path, name: str | None = None) -> Path:
    """Rename a damaged file to the first free `NAME.corrupt-<number>` beside it, and return that.

    NAME is the file's own unless another is given.
    """
    for number in count(1):
        aside = path.with_name(f"{name or path.name}.corrupt-{number}")
        if not aside.exists():
            return path.rename(aside)
    raise AssertionError  # there is always another number


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
