"""Links between files of the repository, as they must read on the site."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

__all__ = ["ROOT", "relink_page", "relinked", "repository_pages"]

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
GENERATED = DOCS / "generated"
# Pages that stand elsewhere in the repository, and where the site has them below docs/generated.
ELSEWHERE = {
    "ARCHITECTURE.md": "repository/architecture.md",
    "CHANGELOG.md": "repository/changelog.md",
    "CODE_OF_CONDUCT.md": "repository/code-of-conduct.md",
    "CONTRIBUTING.md": "repository/contributing.md",
    "SECURITY.md": "repository/security.md",
    "leaderboards/published/README.md": "repository/published.md",
    "tests/benchmarks/README.md": "repository/benchmarks.md",
}
ON_SITE = {ROOT / source: GENERATED / name for source, name in ELSEWHERE.items()} | {
    ROOT / "README.md": DOCS / "index.md",
    ROOT / "leaderboards": GENERATED / "boards.md",  # the folder of the CSV files
}


def repository_pages() -> dict[str, str]:
    """Return the pages that stand outside docs/, by their name below docs/generated."""
    return {
        name: relinked((ROOT / source).read_text(encoding="utf-8"), ROOT / source, GENERATED / name)
        for source, name in ELSEWHERE.items()
    }


def relink_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Fit the links of a page of docs/ while Sphinx reads it."""
    page = Path(app.env.doc2path(name))
    if GENERATED not in page.parents:
        source[0] = relinked(source[0], page, page)


def relinked(text: str, page: Path, home: Path) -> str:
    """Return the text of a page with its relative links as they read from `home`, where the site has it.

    Code blocks stay as they are.
    """

    def link(match: re.Match[str]) -> str:
        path, hash_, fragment = match[1].partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        target = (page.parent / path).resolve()
        target = ON_SITE.get(target, target)
        return f"]({os.path.relpath(target, home.parent)}{hash_}{fragment})"

    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else re.sub(r"\]\(([^)\s]+)\)", link, part) for part in parts)
