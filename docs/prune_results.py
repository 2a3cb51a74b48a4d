"""Remove what the repository does not keep of published runs: `python docs/prune_results.py digits`.

Runs of the suite's present version keep the weights of seed 0, for the test that committed weights give their committed
verdicts, and the verdicts of every seed. A run without weights is complete: it is neither trained nor attacked again.
Folders of trials go once the table of trials has their rows, from which tuning resumes.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from fairbench.results.folder import RunFolder
from fairbench.run.tuning.table import read_table, table_path
from fairbench.suites.suite import load_suite

KEPT_SEED = 0


def superfluous(
    record: Mapping[str, Any], version: int, recorded: Collection[str]
) -> Literal["weights", "folder"] | None:
    """Return what of a run is not kept: its weights, its folder, or nothing.

    `recorded` holds the run ids in the table of trials.
    """
    if record["spec"].get("trial") is not None:
        return "folder" if record["run_id"] in recorded else None
    versions = {key.partition(".")[0] for key in record["protocols"]}  # changed settings have keys such as 4.custom-a1
    present = record["status"] == "complete" and versions == {str(version)}
    return "weights" if present and record["seed"] != KEPT_SEED else None


def prune(root: Path, suite: str) -> dict[str, int]:
    """Prune the results of a suite below `root`; returns how many weights and folders were removed."""
    loaded = load_suite(suite)
    table = table_path(root, loaded.name, loaded.version)
    recorded = {row.run_id for row in read_table(table)} if table.exists() else set()
    removed = {"weights": 0, "folder": 0}
    for path in sorted((root / "results" / loaded.name).glob("*/*/run.json")):
        folder = RunFolder(path.parent)
        what = superfluous(folder.read(), loaded.version, recorded)
        if what == "folder":
            shutil.rmtree(folder.path)
        elif what == "weights" and folder.best.exists():
            folder.best.unlink()
            folder.last.unlink(missing_ok=True)
        else:
            continue
        removed[what] += 1
    return removed


if __name__ == "__main__":
    print("removed the weights of {weights} runs and {folder} folders of trials".format(**prune(Path(), sys.argv[1])))
