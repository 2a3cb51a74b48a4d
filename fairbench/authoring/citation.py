"""The citation of a method, one line of text, as a link to the paper and as a BibTeX entry."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from fairbench.authoring.authors import authors_of

__all__ = ["Citation", "parse_citation"]

_JOURNALS = {
    "TMLR": "Transactions on Machine Learning Research",
    "IEEE TIFS": "IEEE Transactions on Information Forensics and Security",
    "Frontiers of Computer Science": "Frontiers of Computer Science",
}
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_VENUE = re.compile(r"([A-Z][\w ]*?) (\d{4})")
_AUTHORS = re.compile(r"\w[\w-]* (?:et al\.|and \w[\w-]*)")
_AFTER_TITLE = re.compile(rf"arXiv |pp\. |Fig\. |{_VENUE.pattern}$")
_SPECIAL = re.compile(r"([&%$#_{}])")


@dataclass(frozen=True)
class Citation:
    """A paper; `authors`, `venue`, `year` and `arxiv` are empty if the text does not name them."""

    authors: str
    title: str
    venue: str
    year: str
    arxiv: str

    @property
    def url(self) -> str:
        """Address of the paper on arXiv; empty without an arXiv number."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    @property
    def key(self) -> str:
        """The first author's family name, the year and the first long word of the title, in lower case."""
        words = re.findall(r"[a-z]{4,}", self.title.lower())
        author = re.sub(r"\W", "", self.authors.partition(" ")[0]).lower()
        return f"{author}{self.year}{words[0] if words else ''}"

    @property
    def bibtex(self) -> str:
        """The paper as a BibTeX entry: an article, a conference paper, or @misc for a paper on arXiv alone.

        It names all authors where they are known (`fairbench.authoring.authors`), else those of the text "and others".
        """
        kind = "article" if self.venue in _JOURNALS else "inproceedings" if self.venue else "misc"
        place = "journal" if kind == "article" else "booktitle"
        fields = {
            "title": f"{{{_escaped(self.title)}}}",
            "author": authors_of(self.title) or _escaped(self.authors.replace(" et al.", " and others")),
            place: _escaped(_JOURNALS.get(self.venue, self.venue)),
            "year": self.year,
            "eprint": self.arxiv,
            "archivePrefix": "arXiv" if self.arxiv else "",
        }
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@{kind}{{{self.key},", *lines, "}"])


def parse_citation(text: str) -> Citation | None:
    """Read "AUTHORS, TITLE, VENUE YEAR, arXiv NUMBER"; None for a text that names no paper in this form.

    Authors, venue and number may be missing. Words in front of the authors ("Ablation of", "After") and text after a
    semicolon are ignored. Without a venue the year is that of the arXiv number.
    """
    line = re.sub(r"^(Ablation of|After) ", "", " ".join(text.partition(";")[0].split()))
    arxiv, parts = _ARXIV.search(line), line.split(", ")
    authors = parts.pop(0) if _AUTHORS.fullmatch(parts[0]) else ""
    venue = next((found for part in parts[1:] if (found := _VENUE.fullmatch(part))), None)
    journal = next((part for part in parts[1:] if part in _JOURNALS), "")
    if not parts or not (arxiv or venue):
        return None
    number = arxiv[1] if arxiv else ""
    year = venue[2] if venue else f"20{number[:2]}"
    title = itertools.takewhile(lambda part: not _AFTER_TITLE.match(part) and part not in _JOURNALS, parts[1:])
    return Citation(authors, ", ".join([parts[0], *title]), venue[1] if venue else journal, year, number)


def _escaped(text: str) -> str:
    """Escape the characters that LaTeX treats as commands."""
    return _SPECIAL.sub(r"\\\1", text.replace("\\", ""))
