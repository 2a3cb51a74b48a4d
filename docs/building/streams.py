"""What a command prints in a notebook, put together from the pieces in which it arrived."""

from __future__ import annotations

from myst_nb.core import render
from nbformat import NotebookNode

__all__ = ["merged", "setup"]


def setup() -> None:
    """Take the place of MyST-NB's own merge, which ends every piece with a new line and so breaks tables."""
    render.coalesce_streams = merged


def merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return a cell's outputs with the pieces of each stream in one, where its first piece stood."""
    kept: list[NotebookNode] = []
    streams: dict[str, NotebookNode] = {}
    for output in outputs:
        if output["output_type"] != "stream":
            kept.append(output)
        elif output["name"] in streams:
            streams[output["name"]]["text"] += output["text"]
        else:
            streams[output["name"]] = output
            kept.append(output)
    return kept
