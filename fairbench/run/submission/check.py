"""The check of one run folder, and the search for run folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fairbench.data import load_dataset
from fairbench.errors import FairbenchError, InvalidInput
from fairbench.files import read_json
from fairbench.leaderboard.builder import check_rows_of_run
from fairbench.results.folder import RunFolder
from fairbench.results.record import SEAL
from fairbench.run.private import find_private
from fairbench.run.submission.outcome import SubmissionOutcome
from fairbench.run.submission.settings import differing_settings
from fairbench.run.submission.verdicts import check_verdicts
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import load_suite

__all__ = ["check_submission", "find_run_folders"]

NEEDED = ("run.json", "verdicts.npz")
TRAINED = "history.csv"  # every run has it except that of a published model
ALLOWED = {*NEEDED, TRAINED, "best.safetensors", "last.safetensors"}
MAX_WEIGHTS = 1_000_000


def check_submission(path: Path, *, full: bool = False) -> SubmissionOutcome:
    """Check a run folder `.../SUITE/METHOD/RUN`.

    Its record must have a valid checksum of its own and those of the files beside it. Its settings must be those of
    the suite, of this version or of a committed board. Its verdicts must be of the suite's images, and its weights, if
    given, must reproduce them: at most 2 % may differ. AutoAttack, at hundreds of times the cost, runs only with
    `full`. Its rows must be valid on a leaderboard. Other files, local paths and secrets are faults.
    """
    outcome = SubmissionOutcome(path, list(_foreign(path)))
    if outcome.wrong:  # a link is not followed
        return outcome
    try:
        record = _record(path)
        outcome.wrong.extend(RunFolder(path).damage().values())
        outcome.wrong.extend(find_private(path, record))
        spec = RunSpec.model_validate(record["spec"])
        if path.resolve().parts[-3:] != spec.folder.parts:
            outcome.wrong.append(f"its record is that of results/{spec.folder}: give the folder this name")
        suite = load_suite(spec.suite)
        dataset = load_dataset(spec.data.name, train_per_class=spec.data.train_per_class)
        outcome.wrong.extend(differing_settings(spec, record, suite, dataset))
        if not outcome.wrong:
            check_verdicts(outcome, spec, record, dataset, full=full)
        if not outcome.wrong:
            check_rows_of_run(RunFolder(path), record)
    except FairbenchError as error:
        outcome.wrong.append(str(error))
    return outcome


def find_run_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders among the paths and below them, each once, sorted.

    Raises InvalidInput for a path without any, and for files that lie outside a run folder.
    """
    found: dict[Path, None] = {}
    for path in paths:
        runs = [path] if (path / "run.json").exists() else sorted(file.parent for file in path.rglob("run.json"))
        if not path.exists():
            raise InvalidInput(f"{path}: no such folder")
        if not runs:
            raise InvalidInput(f"{path}: holds no run folder, that is, no run.json")
        inside = {run.resolve() for run in runs}
        for file in sorted(path.rglob("*")) if path not in runs else []:
            if not file.is_dir() and file.parent.resolve() not in inside and not _ignored(file):
                raise InvalidInput(f"{file}: is in no run folder")
        found |= dict.fromkeys(runs)
    return sorted(found)


def _ignored(file: Path) -> bool:
    """Whether version control ignores a file, which it does for locks."""
    return file.name.startswith(".") and file.name.endswith(".lock")


def _foreign(path: Path) -> Iterator[str]:
    for name in NEEDED:
        if not (path / name).is_file():
            yield f"{name} is missing"
    for file in sorted(path.rglob("*")):
        if file.is_symlink() or file.name not in ALLOWED or file.parent != path:
            if not _ignored(file):
                yield f"{file.relative_to(path)} is no file of a run: remove it"
        elif file.suffix == ".safetensors" and file.stat().st_size > MAX_WEIGHTS:
            yield f"{file.name} has more than {MAX_WEIGHTS} bytes: leave larger weights out"


def _record(path: Path) -> dict[str, Any]:
    """The record of a finished run, with its checksum valid; raises CorruptFile and InvalidInput."""
    run = RunFolder(path)
    record = run.read()
    if record.get("status") != "complete":
        raise InvalidInput(f"the run is not finished: {record.get('status', 'no record')!s:.40}")
    if SEAL not in read_json(run.run):
        raise InvalidInput("run.json has no checksum of its own")
    needed = [NEEDED[1]] if record["spec"].get("published") else [NEEDED[1], TRAINED]
    for name in needed:
        if not (path / name).is_file():
            raise InvalidInput(f"{name} is missing")
        if name not in record["files"]:
            raise InvalidInput(f"run.json has no checksum of {name}")
    return record
