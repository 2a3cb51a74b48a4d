"""BibTeX entries from the citations of the registry."""

from __future__ import annotations

import re

__all__ = ["bibtex", "paper_link"]

ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")


def bibtex(citation: str) -> str:
    """Return the BibTeX entry of a citation `AUTHORS, TITLE, VENUE YEAR, arXiv NUMBER`, and "" for any other text.

    A citation names the first author only, which BibTeX writes as `and others`.
    """
    text = re.sub(r"^(Ablation of|After) ", "", citation).partition(";")[0]
    arxiv = ARXIV.search(text)
    authors, _, rest = text.partition(", ")
    if " et al." not in authors and " and " not in authors:
        return ""
    parts = [part for part in rest.split(", ") if not ARXIV.fullmatch(part) and not part.startswith(("Fig.", "pp."))]
    venue = next((part for part in parts if re.search(r"\b(19|20)\d\d$", part)), "")
    title = ", ".join(parts[: parts.index(venue)] if venue else parts)
    year = venue[-4:] if venue else f"20{arxiv[1][:2]}" if arxiv else ""
    if not title or not year:
        return ""
    key = re.sub(r"\W", "", authors.split()[0]).lower() + year + re.sub(r"\W.*", "", title).lower()
    fields = {
        "title": f"{{{title}}}",
        "author": authors.replace(" et al.", " and others"),
        "year": year,
        "booktitle" if venue else "journal": venue[:-5]
        if venue
        else f"arXiv preprint arXiv:{arxiv[1] if arxiv else ''}",
    }
    if arxiv:
        fields |= {"eprint": arxiv[1], "archivePrefix": "arXiv"}
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@{'inproceedings' if venue else 'misc'}{{{key},\n{lines}\n}}"


def paper_link(citation: str) -> str:
    """Return the address of the paper on arXiv, or "" without an arXiv number."""
    found = ARXIV.search(citation)
    return f"https://arxiv.org/abs/{found[1]}" if found else ""
