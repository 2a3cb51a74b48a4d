"""Local paths and secrets in the texts of a run folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fairbench.models.checkpoint import read_tensors
from fairbench.results.address import public
from fairbench.results.folder import RunFolder

__all__ = ["KINDS", "find_private"]

KINDS = ("best", "last")

_PATH = re.compile(r"""(?:^|[\s=:,;'"(])((?:/[^/\s,;'"]+|~/[^\s,;'"]*|[A-Za-z]:\\)[^\s,;'"]*)""")
_SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|gh[pousr]_\w{20,}|github_pat_\w{20,}|hf_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}"
    r"|-----BEGIN|(?i:password|passwd|secret|token|api[_-]?key)\s*[=:]\s*\S+"
)


def find_private(path: Path, record: Mapping[str, Any]) -> Iterator[str]:
    """Describe the local paths and apparent secrets of a text, without repeating a secret."""
    texts = dict(_strings(record))
    history = RunFolder(path).history
    if history.is_file():
        texts[history.name] = history.read_text(encoding="utf-8", errors="replace")
    for kind in KINDS:
        weights = path / f"{kind}.safetensors"
        if weights.is_file():
            texts[weights.name] = read_tensors(weights)[1] or ""
    for place, text in texts.items():
        if _SECRET.search(text) or public(text) != text:
            yield f"{place} holds what looks like a secret"
        local = _PATH.search(text)
        if local:
            yield f"{place} holds a local path, {local[1]:.80}"


def _strings(value: Any, place: str = "run.json") -> Iterator[tuple[str, str]]:
    """Every text of a record, keys included, with its place in the record."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{place} (a key)", str(key)
            yield from _strings(inner, f"{place}: {key}" if place == "run.json" else f"{place}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _strings(inner, f"{place}[{number}]")
