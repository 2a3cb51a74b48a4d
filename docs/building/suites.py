"""The reference of the built-in suites: what each fixes, and the attacks of its protocol."""

from __future__ import annotations

from building.markdown import escaped, table
from fairbench.leaderboard.lookup import committed_folder, versions_of
from fairbench.suites.suite import load_suite, suite_paths

__all__ = ["page"]

TITLE = """# Suites

A suite fixes the dataset, the network, the training recipe, the attacks and the methods of a benchmark.
`fairbench suites NAME` prints one whole. Intensities are in units of pixels in [0, 1].
"""


def page() -> str:
    """Return a table of the built-in suites."""
    rows = []
    for name in suite_paths():
        suite = load_suite(name)
        threat = f"{suite.threat.norm}, {suite.threat.eps:.4g}"
        attacks = ", ".join(f"`{attack}`" for attack in suite.evaluation.best)
        boards = ", ".join(path.stem for path in versions_of(committed_folder() / name)) or "not measured"
        rows.append([f"`{name}`", suite.version, escaped(suite.summary), threat, attacks, boards])
    return f"{TITLE}\n" + table(["suite", "version", "summary", "norm, eps", "attacks", "committed boards"], rows)
