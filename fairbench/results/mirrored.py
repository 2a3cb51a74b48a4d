"""The two copies of a run, in a local folder and at a URL: whether each is whole, and which has more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairbench.errors import CorruptFile
from fairbench.files import parse_json
from fairbench.results.folder import RunFolder
from fairbench.results.record import check_record, unseal

__all__ = ["FILES", "WEIGHTS", "bytes_of", "covers", "files_of", "has_more", "is_whole", "record_of"]

WEIGHTS = ("best.safetensors", "last.safetensors")
FILES = ("verdicts.npz", "history.csv", *WEIGHTS)


def record_of(content: bytes, where: str) -> Mapping[str, Any]:
    """Return a checked record from its bytes; raises CorruptFile, which names `where`."""
    try:
        record = parse_json(content)
    except ValueError as error:
        raise CorruptFile(f"{where}: not valid JSON: {error}") from None
    return check_record(unseal(record, where), where)


def is_whole(folder: RunFolder) -> bool:
    """Whether a run is finished and all files that its record names exist."""
    record = folder.read()
    return record.get("status") == "complete" and all((folder.path / name).exists() for name in files_of(record))


def bytes_of(folder: RunFolder) -> bytes:
    """The record of a run as it is stored, empty before it exists."""
    return folder.run.read_bytes() if folder.run.exists() else b""


def has_more(folder: RunFolder, content: bytes) -> bool:
    """Whether a local run is finished and intact, and has evaluations or protocols that the record at the URL lacks."""
    own = folder.read() if not folder.damage() else {}
    return own.get("status") == "complete" and not covers(content, own)


def files_of(record: Mapping[str, Any]) -> list[str]:
    """The names of the files that a record has checksums of."""
    return [name for name in FILES if name in record["files"]]


def covers(content: bytes, other: Mapping[str, Any]) -> bool:
    """Whether a record is that of a finished run with all evaluations and protocols of another."""
    try:
        record = record_of(content, "run.json")
    except CorruptFile:
        return False
    if record.get("status") != "complete":
        return False
    made = record["evaluations"]
    if any(key not in made or _source(made[key]) != _source(cost) for key, cost in other["evaluations"].items()):
        return False
    return all(record["protocols"].get(version) == asked for version, asked in other["protocols"].items())


def _source(evaluation: Mapping[str, Any]) -> str | None:
    """The hash of the plug-in code that made an evaluation."""
    found: str | None = evaluation.get("source_hash")
    return found
