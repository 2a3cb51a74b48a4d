"""Checks of a stranger's run folders, before they may join the committed results.

Nothing that a folder names is executed: its weights must be for a registered model, its attacks may not name code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairbench import registry
from fairbench.attacks import resolve
from fairbench.data import Dataset, balanced_subset, load_dataset
from fairbench.errors import FairbenchError, InvalidInput
from fairbench.evaluation.judge import attack_verdicts
from fairbench.files import read_json
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.lookup import find_boards
from fairbench.method.composition import build_method
from fairbench.models import load_checkpoint, weights_hash
from fairbench.plugins.calls import code_of_attack
from fairbench.results.folder import RunFolder
from fairbench.results.record import SEAL
from fairbench.run.private import KINDS, find_private
from fairbench.run.zoo import is_listed, published_sections
from fairbench.suites.sections import Recipe
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import TUNABLE, Suite, load_suite

__all__ = ["SubmissionOutcome", "check_submission", "find_run_folders"]

NEEDED = ("run.json", "verdicts.npz")
TRAINED = "history.csv"  # every run has it except that of a published model
ALLOWED = {*NEEDED, TRAINED, "best.safetensors", "last.safetensors"}
MAX_WEIGHTS = 1_000_000
# Share and number of verdicts that may differ on another processor: a gradient near zero may change its sign.
MAY_DIFFER, FEW = 0.02, 2


@dataclass(frozen=True)
class SubmissionOutcome:
    """The result of checking one run folder: its faults, and the verdicts that were reproduced or not tried."""

    path: Path
    wrong: list[str] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def check_submission(path: Path, *, full: bool = False) -> SubmissionOutcome:
    """Check a run folder `.../SUITE/METHOD/RUN`.

    Its record must have a valid seal and the checksums of the files beside it. Its settings must be those of the suite,
    of this version or of a committed board. Its verdicts must be of the suite's images, and its weights, if given, must
    reproduce them: at most 2 % may differ. AutoAttack, at hundreds of times the cost, runs only with `full`. Other
    files, local paths and secrets are faults.
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
        outcome.wrong.extend(_settings(spec, record, suite, dataset))
        if not outcome.wrong:
            _verdicts(outcome, spec, record, dataset, full=full)
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
    """The sealed record of a finished run; raises CorruptFile and InvalidInput."""
    run = RunFolder(path)
    record = run.read()
    if record.get("status") != "complete":
        raise InvalidInput(f"the run is not finished: {record.get('status', 'no record')!s:.40}")
    if SEAL not in read_json(run.run):
        raise InvalidInput("run.json has no seal")
    needed = [NEEDED[1]] if record["spec"].get("published") else [NEEDED[1], TRAINED]
    for name in needed:
        if not (path / name).is_file():
            raise InvalidInput(f"{name} is missing")
        if name not in record["files"]:
            raise InvalidInput(f"run.json has no checksum of {name}")
    return record


def _settings(spec: RunSpec, record: Mapping[str, Any], suite: Suite, dataset: Dataset) -> Iterator[str]:
    """Describe how a run differs from the suite that it names."""
    if spec.custom or spec.quick or spec.trial is not None:
        yield "it ran with --set or --quick, or as a trial of tuning; such a run is never ranked"
        return
    if _unregistered(spec):
        yield f"the method {spec.method.name} is not registered: add methods/{spec.method.name}.py"
    if spec.data_hash != dataset.hash:
        yield f"its dataset is not {spec.data.name}"
    for version, protocol in record["protocols"].items():
        if protocol["custom"]:  # beside the suite's own; its rows are on an unranked board of their own
            continue
        if protocol["hash"] != _protocol(suite, version, dataset.hash):
            yield f"its protocol {protocol['hash']} is not that of {suite.name} version {version}"
    if str(suite.version) in record["protocols"] and spec.version == suite.version:
        yield from _current(spec, record, suite, dataset)


def _unregistered(spec: RunSpec) -> bool:
    """Whether a student's method is not registered here."""
    trained = spec.role == "student" and spec.method.base != "checkpoint"
    return trained and spec.method.name not in registry.methods.names()


def _current(spec: RunSpec, record: Mapping[str, Any], suite: Suite, dataset: Dataset) -> Iterator[str]:
    """Describe how a run of the suite's current version differs from the suite."""
    expected = {name: getattr(suite, name) for name in ("data", "threat", "selection", "evaluation")}
    expected |= {} if spec.published is None else published_sections(suite)
    for name, section in expected.items():
        if getattr(spec, name) != section:
            yield f"its {name} is not that of {suite.name} version {suite.version}"
    if spec.published is not None:
        if not is_listed(spec, suite):
            yield f"{spec.method.name}, its architecture and its weights are not listed by {suite.name}"
    elif spec.role == "student" and spec.model != suite.model:
        yield f"its model {spec.model} is not that of the suite, {suite.model}"
    if spec.role == "student" and suite.tuning is not None:
        budgets = {suite.budget(dataset.hash, trials) for trials in (None, suite.tuning.trials)}
        stated = {spec.budget, record["protocols"][str(suite.version)].get("budget")}
        if not stated <= budgets or not _same_budget(spec.recipe, suite.recipe, spec):
            yield "its training budget is not the suite's: give the method the suite's trials with `fairbench tune`"


def _same_budget(recipe: Recipe, expected: Recipe, spec: RunSpec) -> bool:
    """Whether two recipes agree in all but what tuning may set and what a method declares for itself."""
    method = build_method(spec.method)
    own = {name for part in (method, *method.policies) for name in part.own_recipe}
    free = {*TUNABLE, *own}
    return recipe.model_dump(exclude=free) == expected.model_dump(exclude=free)


def _protocol(suite: Suite, version: str, data_hash: str) -> str | None:
    """The protocol of a version: the suite's, or the committed board's; None for any other version."""
    if version == str(suite.version):
        return suite.protocol(data_hash)
    for root in (Path(), Path(__file__).resolve().parents[2]):
        try:
            boards = {path.stem: path for path in find_boards([suite.name], root)}
        except FairbenchError:
            continue
        if f"v{version}" in boards:
            return str(load_leaderboard(boards[f"v{version}"])["protocol"].iloc[0])
    return None


def _verdicts(
    outcome: SubmissionOutcome, spec: RunSpec, record: Mapping[str, Any], dataset: Dataset, *, full: bool
) -> None:
    """Compare the stored verdicts with the suite's labels and with those that the weights give."""
    folder = RunFolder(outcome.path)
    stored, test = folder.read_verdicts(), balanced_subset(dataset.test, spec.data.test_per_class)
    if not np.array_equal(stored.get("labels", np.empty(0)), test.labels):
        outcome.wrong.append("verdicts.npz has other labels than the suite's test images")
        return
    for kind in KINDS:
        texts = list(dict.fromkeys(text for each in record["protocols"].values() for text in each[kind]))
        absent = [text for text in texts if f"{kind}/{text}" not in stored]
        outcome.wrong.extend(f"verdicts.npz has no verdicts for {kind}/{text}" for text in absent)
        path = folder.best if kind == "best" else folder.last
        if absent or not path.is_file():
            outcome.left.extend(f"{kind}/{text}" for text in texts if text not in absent)
            continue
        model, _ = load_checkpoint(path)
        if weights_hash(model) != record["weights"][kind]:
            outcome.wrong.append(f"{path.name} holds other weights than run.json says")
            continue
        for text in texts:
            key = f"{kind}/{text}"
            if text.startswith("autoattack") and not full:
                outcome.left.append(key)
            elif code_of_attack(text):
                outcome.wrong.append(f"{key} names code, which is not run")
            else:
                found = attack_verdicts(
                    model,
                    test.images,
                    test.labels,
                    [resolve(text, spec.threat)],
                    batch_size=spec.evaluation.batch_size,
                    seed=spec.evaluation.seed,
                )
                _compare(outcome, key, stored[key], found[text])


def _compare(outcome: SubmissionOutcome, key: str, stored: NDArray[np.int64], found: NDArray[np.int64]) -> None:
    differ = int((stored != found).sum())
    if differ > max(FEW, MAY_DIFFER * len(stored)):
        outcome.wrong.append(f"{key}: the weights give other verdicts on {differ} of {len(stored)} images")
    else:
        outcome.remade.append(key)
