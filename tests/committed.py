"""The committed runs of the suite digits, by method, seed and version."""

from __future__ import annotations

from pathlib import Path

from fairbench.results.folder import RunFolder, each_run

RESULTS = Path(__file__).parents[1] / "results"


def committed_run(method: str, seed: int, version: int) -> RunFolder:
    """Return the run of a method and seed on the board of a version.

    Of version 4 the weights of seed 0 alone are kept, and of the earlier versions those of every seed.
    """
    (found,) = (
        folder
        for folder, record in each_run(RESULTS, "digits", method)
        if record["seed"] == seed and not record["protocols"].get(str(version), {"custom": True})["custom"]
    )
    return found
