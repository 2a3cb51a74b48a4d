"""A Sphinx extension that writes the pages which come from the code, and fits the repository's links to the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from building import boards, columns, commands, links, mathml, methods, python, streams, suites

__all__ = ["setup"]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the generators to the build."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", links.relink_page)
    app.connect("autodoc-process-docstring", python.to_rst)
    app.connect("autodoc-process-signature", python.readable)
    app.connect("build-finished", boards.write_site)
    mathml.setup(app)
    streams.setup()
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(app: Sphinx) -> None:
    """Write every generated page below docs/generated; pages of an earlier build that are no longer made go away."""
    folder = Path(app.srcdir) / "generated"
    pages = {
        **links.repository_pages(),
        **methods.pages(),
        "boards.md": boards.page(),
        "columns.md": columns.page(),
        "commands.md": commands.page(),
        "python.rst": python.page(),
        "suites.md": suites.page(),
    }
    for old in set(folder.rglob("*.*")) - {folder / name for name in pages}:
        old.unlink()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
