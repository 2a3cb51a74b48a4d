"""Atomic writes, checksums and locks. A file is either complete or absent, and links are never written through."""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest
from io import BufferedReader
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from fairbench.errors import CorruptFile, FairbenchError, InvalidInput, Missing

__all__ = [
    "MAX_JSON_BYTES",
    "at_home",
    "atomic",
    "checksum",
    "locked",
    "named_file",
    "open_regular",
    "parse_json",
    "read_json",
    "refuse_links",
    "require_writable",
    "set_aside",
    "write_json",
    "write_text",
]

# Parsed JSON takes up to twenty times the memory of its text.
MAX_JSON_BYTES = 16_000_000
# `.NAME.~TOKEN~SUFFIX` is a file in the course of writing. Its writer holds a lock on it until the process ends.
TEMPORARY = re.compile(r"\..+\.~[0-9a-f]{16}~(\.[^.]*)?")


def at_home(text: str) -> Path:
    """Return a path with a leading `~` replaced by the home folder, unchanged where no home folder is known."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def named_file(text: str) -> Path:
    """Return the path that a source of weights names, `PATH` or `file:PATH`; of other sources it is that of no file."""
    return at_home(text.removeprefix("file:"))


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; sync it and rename it to `path` on success, remove it on any failure.

    The process's umask sets the file's mode. Temporary files of killed writers in the folder are removed. Raises
    FairbenchError in one line if the disk is full or the folder is not writable, and if `path` is a device, a pipe or a
    socket, or a link to one: a user who may rename in `/dev` would replace `/dev/null` by a file.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise FairbenchError(f"{path}: cannot be written: not a regular file")
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        temporary, handle = _temporary(path)
    except OSError as error:
        raise FairbenchError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's error for a full disk
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise FairbenchError(f"{path}: cannot be written: {reason}") from None
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
        os.close(handle)


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` plus `.lock`; `waiting` is called if another process holds it.

    Raises FairbenchError in one line if the lock file cannot be opened or is a link.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            waiting()
            lock.acquire()
    except OSError as error:
        raise FairbenchError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def refuse_links(path: Path, levels: int) -> None:
    """Raise InvalidInput if `path`, or one of the `levels` - 1 folders above it, is a symbolic link.

    The folder that a user names may be a link; its content may be untrusted and must not lead out of it. Raises
    FairbenchError in one line if a folder may not be searched.
    """
    for one in [path, *path.parents][:levels]:
        try:
            linked = one.is_symlink()
        except OSError as error:
            raise FairbenchError(f"{path}: cannot be written: {error.strerror}") from None
        if linked:
            raise InvalidInput(f"{one}: is a link, and files are not written through links below the folder given")


def write_text(path: Path, text: str) -> None:
    r"""Write text as UTF-8, atomically; bytes of a file name that are no UTF-8 become `\udcff`, as in output."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, floats exactly."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON from a regular file of at most `MAX_JSON_BYTES`; raises Missing, and CorruptFile also for a key that is
    given twice.
    """
    try:
        with open_regular(path) as file:
            return parse_json(file.read(MAX_JSON_BYTES + 1))
    except ValueError as error:
        raise CorruptFile(f"{path}: not valid JSON: {error}", path) from None


def parse_json(content: bytes) -> Any:
    """Parse JSON of at most `MAX_JSON_BYTES`; raises ValueError, also for a key that is given twice."""
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"larger than the {MAX_JSON_BYTES} bytes allowed")
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_each_once)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; raises ValueError for a repeated key, of which other readers take another value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r:.80} is given twice")
    return found


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading bytes; raises Missing if absent, a folder, a device, a pipe or a socket."""
    try:
        # Non-blocking, because opening a pipe waits for a writer, perhaps forever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Missing(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise Missing(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Missing(f"{path}: cannot be read: {'Is a directory' if path.is_dir() else 'not a regular file'}")
    return os.fdopen(handle, "rb")


def require_writable(folder: Path, option: str) -> None:
    """Raise InvalidInput, which names the option, if no file can be created in or below a folder; none is left."""
    place = folder.absolute()
    try:
        existing = next(path for path in (place, *place.parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InvalidInput(f"{option} {folder}: cannot be written: {error.strerror}") from None


def checksum(path: Path) -> str:
    """Sha256 of a regular file's bytes, in hex; raises Missing."""
    with open_regular(path) as file:
        return file_digest(file, "sha256").hexdigest()


def set_aside(path: Path, name: str | None = None) -> Path:
    """Rename a damaged file to the first free `NAME.corrupt-<number>` beside it, and return the new path.

    NAME is the file's own name unless another is given.
    """
    for number in count(1):
        aside = path.with_name(f"{name or path.name}.corrupt-{number}")
        if not aside.exists() and not aside.is_symlink():
            return path.rename(aside)
    raise AssertionError  # the loop ends at a free number


def _temporary(path: Path) -> tuple[Path, int]:
    """Create an empty file beside `path` with the mode that the umask gives, and lock it."""
    while True:
        name = path.with_name(f".{path.name}.~{token_hex(8)}~{path.suffix}")
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks, on which no temporary file is swept
            fcntl.flock(handle, fcntl.LOCK_EX)
        if name.exists():  # another writer may have swept it before it was locked
            return name, handle
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove the temporary files of dead writers: those on which nobody holds a lock."""
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name):
            with suppress(OSError, FairbenchError), open_regular(path) as left:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
