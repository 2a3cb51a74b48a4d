"""The meaning of table headings that are no columns of a leaderboard file, or have another name there."""

from __future__ import annotations

import re

from fairbench.errors import UnknownName
from fairbench.leaderboard import columns
from fairbench.registry import methods

__all__ = ["COMPARED", "HEADINGS", "RANKED", "explain_heading"]

# Headings of the ranking, by the column of `ranking`'s frame that they show.
RANKED = {
    "rank": "#",
    "ranks": "ranks 95 %",
    "ranks_new": "new images",
    "behind_best": "behind best",
    "method": "method",
    "seeds": "seeds",
    "clean": "clean %",
    "average": "average %",
    "worst": "worst class %",
    "worst_class": "class",
    "true_worst": "true worst %",
    "worst2": "worst two %",
    "nsd": "NSD",
    "oracle": "oracle worst %",
    "relative": "relative",
    "flags": "red flags",
    "whose": "whose",
}
COMPARED = ("figure", "A - B points", "95 % interval", "p alone", "p", "better")

_SAME = {
    "clean %": "average",
    "average %": "average",
    "worst class %": "worst",
    "class": "worst_class",
    "NSD": "nsd",
    "NSD corrected": "nsd_corrected",
    "cross-fitted worst %": "worst_crossfit",
    "worst tenth %": "worst10",
    "red flags": "flags",
    "follows": "provenance",
    "training s": "train_seconds",
    "train s": "train_seconds",
    "peak MiB": "peak_memory_mb",
    "robust in training %": "train_robust",
}
_MEANT = {
    "rank": "see '#'",
    "#": "rank by a figure's mean over seeds, 1 the best; equal figures share a rank; empty where budgets, settings or "
    "selection differ, and for teachers",
    "ranks 95 %": "the ranks that a method may truly have on these images: 95 % interval over new seeds, test images "
    "held fixed; Holm's correction over the comparisons with all other methods",
    "new images": "the ranks that a method may truly have: 95 % interval over new seeds and new test images, empty "
    "for figures that are no accuracy",
    "behind best": "whether another method is higher beyond chance, all methods of the board compared (Tukey's range "
    "at 5 %): no; over new seeds, on these images; over new seeds and new images",
    "true worst %": "estimate of the worst class's true accuracy, mean over seeds, by a hierarchical model of the "
    "classes; its 95 % interval is for new seeds and new images, of a single run for new images alone",
    "worst two %": "mean of the lowest two classes of a run, mean over seeds",
    "worst three %": "mean of the lowest three classes of a run, mean over seeds",
    "oracle worst %": "worst class of a checkpoint that was selected on the test set; what it gains is optimism",
    "worst_shared": "how many further classes are as low in a run as the worst classes that are named",
    "whose": "where a row comes from: your own results or the committed board",
    "relative": "(worst - worst0) / worst0 + (average - average0) / average0 against the base method (DAFA's rho)",
    "union": "all attacks of the protocol together: an image counts only if it survives every one",
    "clean": "the images without an attack",
    "tier": "no longer shown: a group of methods that seeds did not tell from its best; see 'behind best'",
    "cross-fit %": "no longer shown: worst_crossfit in percent; see 'true worst %'",
    "figure": "what is compared, in the order of the tests: worst, average, then each class",
    "A - B points": "the difference in percentage points, positive where A is higher",
    "95 % interval": "interval of the difference, not corrected for the others: over seeds with the images held fixed, "
    "or for two checkpoints over images with the weights held fixed",
    "p alone": "two-sided p-value of this figure by itself: exploratory where 'p' is not significant",
    "p": "p-value in the order of tests: worst, average if worst differs, classes by Holm if both do",
    "better": "the side that is better at 5 % in the order of tests",
    "nrgc": "normalised robustness Gini coefficient (GF-Score, arXiv 2604.12757): the column gini",
    "rdi": "robustness disparity index (GF-Score, arXiv 2604.12757): the column gap",
    "wcr": "worst-case class robustness (GF-Score, arXiv 2604.12757): the column worst",
}
HEADINGS = (*_SAME, *_MEANT)


def explain_heading(name: str) -> dict[str, str]:
    """Return the meaning of a column or a heading in words; raises UnknownName."""
    known = {_plain(heading): heading for heading in HEADINGS}
    heading = name if name in HEADINGS else known.get(_plain(name), name)
    if name.startswith("/ ") and name[2:] in methods.scan():
        return {"heading": name, "meaning": f"the column on its left as a multiple of that of {name[2:]}"}
    if re.fullmatch(r"[AB] \S+( %)?", name) and name.split()[1] in methods.scan():
        return {"heading": name, "meaning": f"the figure of {name.split()[1]}, side {name[0]} of the comparison"}
    if name not in columns.COLUMNS and heading in _SAME:
        return {"heading": heading, **columns.explain_column(_SAME[heading])}
    if name not in columns.COLUMNS and heading in _MEANT:
        return {"heading": heading, "meaning": _MEANT[heading]}
    try:
        return columns.explain_column(name)
    except UnknownName:
        raise UnknownName("column", name, [*columns.COLUMNS, *HEADINGS]) from None


def _plain(name: str) -> str:
    return name.lower().replace("%", "").replace("_", " ").strip()
