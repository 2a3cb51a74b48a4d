"""Builds leaderboards/<suite>/v<N>.csv from results/: a pure, sorted function of the run folders."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairbench.errors import InvalidInput, Missing
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.board import check_as_written, write_leaderboards
from fairbench.leaderboard.build_lock import build_alone
from fairbench.leaderboard.changed import changed_key
from fairbench.leaderboard.columns import CLASSES_INLINE, COLUMNS, COSTS, ENDS, FIGURES, OPTIONAL
from fairbench.leaderboard.rows import KINDS, rows_of, settings_hash
from fairbench.results.folder import RunFolder, each_run
from fairbench.suites.spec import RunSpec

__all__ = ["board_name", "build_boards", "check_rows_of_run"]


@dataclass(frozen=True, slots=True)
class _Run:
    """A finished run to be put on a leaderboard: the values that decide its place, and its record as text.

    A record as Python objects takes five times the memory, which matters with thousands of runs.
    """

    folder: RunFolder
    version: str
    method: str
    seed: int
    created: str
    run_id: str
    settings: str
    attacks: tuple[tuple[str, ...], ...]
    sources: tuple[tuple[str, str | None], ...]
    classes: int
    marked: bool
    text: str

    def rows(self) -> Iterator[dict[str, Any]]:
        return rows_of(self.folder, json.loads(self.text), self.version)


def build_boards(results: Path, leaderboards: Path, suite: str) -> list[Path]:
    """Rebuild every leaderboard of a suite from its run folders and return the files; equal results give equal bytes.

    Raises Missing if there is no complete run, and InvalidInput if one version has runs of two protocols, or of two
    versions of one plug-in.
    """
    if Path(suite).name != suite or suite in {"", ".."} or not (results / suite).is_dir():
        raise Missing(f"{results / suite}: no run of a suite of this name; `fairbench run SUITE` makes some")
    return build_alone(leaderboards / suite, lambda: _build(results, leaderboards / suite, suite))


def _build(results: Path, folder: Path, suite: str) -> list[Path]:
    boards: dict[str, list[_Run]] = {}
    protocols: dict[tuple[str, str], Any] = {}
    for source, record in each_run(results, suite):
        for run in _runs_of(source, record):
            protocol = record["protocols"][run.version]
            name = board_name(run.version, protocol)
            for part in ("hash", "best", "metrics", *(() if record["spec"].get("checkpoint") else ("last",))):
                own, first = protocol.get(part), protocols.setdefault((name, part), protocol.get(part))
                if own != first:
                    what = "protocol" if part == "hash" else f"the {part} of its protocol,"
                    raise InvalidInput(
                        f"{source.run}: {what} {own} differs from {first}, that of the other runs of {suite} {name}: "
                        "a changed protocol needs a new suite version"
                    )
            boards.setdefault(name, []).append(run)
    if not boards:
        raise Missing(f"{results / suite}: no complete run; `fairbench run {suite}` makes some")
    written = []
    for name, runs in sorted(boards.items()):
        shown = _newest(runs)
        _check_sources(shown)
        files = _files(folder / name, shown)
        write_leaderboards(files, _rows(shown))
        written += list(files)
    return written


def check_rows_of_run(folder: RunFolder, record: Mapping[str, Any]) -> None:
    """Check that a finished run gives valid rows on the leaderboard of each of its protocols; writes nothing.

    Raises what building the leaderboards would raise: CorruptFile, or Missing without the run's warm start.
    """
    for run in _runs_of(folder, record):
        for path, columns in _files(Path(f"v{run.version}"), [run]).items():
            check_as_written(f"its rows on {run.folder.path.parts[-3]}/{path.stem}", columns, _rows([run]))


def _runs_of(folder: RunFolder, record: Mapping[str, Any]) -> Iterator[_Run]:
    """Yield a finished run once for each of its protocols."""
    spec = RunSpec.model_validate(record["spec"])
    text, settings = json.dumps(record), settings_hash(spec)
    for version, protocol in record["protocols"].items():
        yield _Run(
            folder=folder,
            version=version,
            method=record["method"],
            seed=record["seed"],
            created=record["provenance"]["created"],
            run_id=record["run_id"],
            settings=settings,
            attacks=tuple(tuple(protocol[kind]) for kind in KINDS),
            sources=tuple(_sources(spec, record, protocol)),
            classes=len(record["class_names"]),
            marked="tuning" in protocol,
            text=text,
        )


def _sources(spec: RunSpec, record: Mapping[str, Any], protocol: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield what the rows of a run have in common with those of others, with the hash of its plug-in code."""
    yield f"the network {spec.model}, selected by {spec.selection.rule}", spec.source_hash
    for kind in KINDS:
        for text in protocol[kind]:
            yield f"{kind}/{text}", record["evaluations"][f"{kind}/{text}"].get("source_hash")


def _check_sources(runs: Sequence[_Run]) -> None:
    """Raise InvalidInput if two runs of a board used different plug-in code for one network or one attack."""
    first: dict[str, tuple[str | None, _Run]] = {}
    for run in runs:
        for name, source in run.sources:
            known, other = first.setdefault(name, (source, run))
            if known != source:
                raise InvalidInput(
                    f"{other.folder.run} and {run.folder.run}: {name}: the plug-in code has changed between them; "
                    "run the older again"
                )


def board_name(key: str, protocol: Mapping[str, Any]) -> str:
    """Return the file stem of a run's leaderboard: `v1`, or an unranked one of its own for overridden settings.

    `key` is that of the protocol in a run's record. Older records have overridden settings under the suite's version.
    """
    older = protocol["custom"] and key.isdigit()
    return f"v{changed_key(key, protocol['hash']) if older else key}"


def _newest(runs: Sequence[_Run]) -> list[_Run]:
    """Return the runs of a leaderboard: per method those with the settings of its newest run, per seed the newest.

    Another torch version or other settings make new runs beside the old ones, and a mean over seeds must not mix them.
    """
    settings: dict[str, str] = {}
    shown: dict[tuple[str, int], _Run] = {}
    for run in sorted(runs, key=lambda run: (run.created, run.run_id), reverse=True):
        if settings.setdefault(run.method, run.settings) == run.settings:
            shown.setdefault((run.method, run.seed), run)
    return list(shown.values())


def _files(stem: Path, runs: Sequence[_Run]) -> dict[Path, list[str]]:
    """Return the files of a leaderboard with their columns: the classes of large datasets have one of their own."""
    classes = max(run.classes for run in runs)
    per_class = [f"class_{index}" for index in range(classes)] + [f"n_class_{index}" for index in range(classes)]
    inline = per_class if classes <= CLASSES_INLINE else []
    columns = [name for column in COLUMNS for name in (inline if column == "classes" else [column])]
    columns += OPTIONAL if any(run.marked for run in runs) else ()
    files = {stem.parent / f"{stem.name}.csv": columns}
    if not inline:
        keys = ["protocol", "method", "seed", "checkpoint", "attack", "run_id"]
        files[stem.parent / f"{stem.name}.classes.csv"] = keys + per_class
    return files


def _rows(runs: Sequence[_Run]) -> Iterator[dict[str, Any]]:
    """Yield all rows of a leaderboard in order: by method, seed, checkpoint and attack, each method's aggregates last.

    The rows are made one run at a time, so that memory does not grow with the leaderboard.
    """
    asked = dict.fromkeys(attack for run in runs for kind in run.attacks if kind for attack in (*kind, UNION))
    order = {attack: position for position, attack in enumerate(asked)}
    for _, group in groupby(sorted(runs, key=lambda run: (run.method, run.seed, run.run_id)), lambda run: run.method):
        over_seeds: dict[tuple[Any, ...], _OverSeeds] = {}
        for run in group:
            for row in sorted(run.rows(), key=lambda row: (row["checkpoint"], order[row["attack"]])):
                key = tuple(row[name] for name in ("checkpoint", "attack", "recipe_hash", "architecture"))
                if key not in over_seeds:
                    over_seeds[key] = _OverSeeds(row)
                over_seeds[key].add(row)
                yield row
        aggregates = [row for group in over_seeds.values() for row in group.rows()]
        yield from sorted(aggregates, key=lambda row: (row["seed"], row["checkpoint"], order[row["attack"]]))


class _OverSeeds:
    """The rows of one method, checkpoint and attack, with their mean and sample standard deviation over seeds."""

    def __init__(self, first: Mapping[str, Any]) -> None:
        self._schema = int(first["schema"])
        self._shared = dict(first)
        measured = [name for name in ("train_robust",) if name in first]
        self._names = [*FIGURES, *COSTS, *measured, *(key for key in first if key.startswith("class_"))]
        self._table: list[NDArray[np.float64]] = []
        self._flags: list[str] = []

    def add(self, row: Mapping[str, Any]) -> None:
        self._shared = {key: value for key, value in self._shared.items() if row[key] == value}
        self._table.append(np.array([row[name] for name in self._names], dtype=np.float64))
        self._flags.append(row["flags"])

    def rows(self) -> Iterator[dict[str, Any]]:
        table, seeds = np.stack(self._table), len(self._table)
        spread = table.std(axis=0, ddof=1) if seeds > 1 else np.full(len(self._names), math.nan)
        for seed, values in (("mean", table.mean(axis=0)), ("std", spread)):
            figures = dict(zip(self._names, values.tolist(), strict=True))
            if self._schema >= 3:  # the mean of interval ends is not an interval end
                figures |= dict.fromkeys(ENDS, math.nan)
            own = {"seed": seed, "seeds": seeds, "run_id": "", "worst_class": "", "flags": _all_flags(self._flags)}
            yield {**self._shared, **figures, **own}


def _all_flags(rows: Sequence[str]) -> str:
    """Return the flags that are red in any row; `none` only if every row was checked."""
    red = dict.fromkeys(name for flags in rows for name in flags.split(";") if name not in ("", "none"))
    return ";".join(red) or ("none" if all(rows) else "")
