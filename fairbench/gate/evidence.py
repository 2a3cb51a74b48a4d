"""Reading the two sides of the gate from a path: a leaderboard, run folders, or a saved evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.evaluation.verdicts import UNION
from fairbench.files import open_regular
from fairbench.gate.entry import COSTS, KIND, Entry, from_run, from_saved, hardware_name
from fairbench.leaderboard.board import load_leaderboard, runs_of
from fairbench.leaderboard.lineage import run_folder
from fairbench.leaderboard.lookup import find_board
from fairbench.results.folder import RunFolder

__all__ = ["read_evidence"]

IntArray = NDArray[np.int64]
CHECKPOINTS = {".safetensors", ".pt", ".pth", ".ckpt", ".npz"}  # suffixes of files that `fairbench evaluate` opens


def read_evidence(path: str | Path, attack: str = UNION) -> list[Entry]:
    """Return the best checkpoints that a path holds, under one attack.

    The path is a leaderboard CSV (verdicts are read from the `results` beside its `leaderboards`), the name of a suite
    such as `digits` or `digits/v3` for its newest or that committed leaderboard, the folder that `fairbench evaluate
    --out` wrote, a run folder, or a folder of runs at any level of `results`. Raises Missing, CorruptFile, and
    UnknownName for an attack that is not there.
    """
    path = _committed(Path(path))
    if path.is_file() and path.suffix in CHECKPOINTS:
        raise InvalidInput(
            f"{path}: a checkpoint; give the folder of its evaluation: fairbench evaluate {path} --out FOLDER"
        )
    if path.is_file():
        return _from_board(path, attack)
    if (path / "report.json").is_file():
        return [from_saved(path, attack)]
    if (path / "run.json").is_file():
        return [replace(entry, alone=True) for entry in _from_runs(path, [RunFolder(path)], attack)]
    for pattern in ("*/run.json", "*/*/run.json", "*/*/*/run.json", "results/*/*/*/run.json"):
        if found := sorted(path.glob(pattern)):
            return _from_runs(path, [RunFolder(run.parent) for run in found], attack)
    if (path / "partial").is_dir():
        raise Missing(f"{path}: its evaluation was stopped; the same `fairbench evaluate` command continues it")
    if not path.exists():
        raise Missing(f"{path}: no such file or folder, and no suite of this name has a leaderboard")
    raise Missing(f"{path}: no leaderboard CSV, no run folders and no folder of `fairbench evaluate --out`")


def _committed(path: Path) -> Path:
    """Return the committed leaderboard if the path is the name of one and not a file or a folder, else the path."""
    if path.exists() or path.is_absolute() or path.suffix or path.as_posix() in (".", "..") or len(path.parts) > 2:
        return path
    try:
        return find_board(path.as_posix(), Path())
    except Missing:
        return path


def _from_runs(path: Path, folders: Sequence[RunFolder], attack: str) -> list[Entry]:
    """Return the newest complete run of every suite, protocol, method and seed; custom settings come second."""
    newest: dict[tuple[str, ...], tuple[tuple[bool, str], Entry]] = {}
    for folder in folders:
        record = folder.read()
        if record.get("status") != "complete":
            continue
        folder.verify()
        try:
            for version, protocol in record["protocols"].items():
                entry = from_run(folder, record, version, attack)
                order = (not protocol["custom"], str(record["provenance"]["created"]))
                key = (entry.suite, entry.protocol, entry.method, entry.seed)
                if key not in newest or order > newest[key][0]:
                    newest[key] = order, entry
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptFile(f"{folder.run}: not the record of a run: {type(error).__name__}: {error}") from None
    if not newest:
        raise Missing(f"{path}: no complete run")
    return [entry for _, entry in newest.values()]


def _from_board(path: Path, attack: str) -> list[Entry]:
    board = load_leaderboard(path)
    rows = runs_of(path, board[board["checkpoint"] == KIND])
    if attack not in set(rows["attack"]):
        raise UnknownName(f"attack of {path}", attack, sorted(set(rows["attack"].dropna())))
    entries = []
    for (method, seed), run in rows.groupby(["method", "seed"], sort=False):
        texts = tuple(text for text in run["attack"] if text != UNION)
        if attack not in set(run["attack"]):
            raise CorruptFile(f"{path}: {method} seed {seed} has no row of {attack!r}")
        for index, row in run[run["attack"] == attack].iterrows():
            entries.append(_from_row(path, f"{path}: row {int(str(index)) + 2}", row, texts, attack))
    return entries


def _from_row(path: Path, where: str, row: pd.Series[Any], texts: tuple[str, ...], attack: str) -> Entry:
    correct, counts = _tallies(where, row if "n_class_0" in row.index else _classes_row(path, where, row))
    if counts.sum() != row["n"]:
        raise CorruptFile(f"{where}: the classes have {counts.sum()} images, column 'n' says {row['n']}")
    if not abs(correct.sum() / counts.sum() - row["average"]) <= 1e-4:
        raise CorruptFile(f"{where}: the classes give the average {correct.sum() / counts.sum():.4f}")
    run = _run_of(path, row, attack)
    if run is not None and not (np.array_equal(run.correct, correct) and np.array_equal(run.counts, counts)):
        raise CorruptFile(f"{where}: differs from the verdicts of run {row['run_id']}; `fairbench leaderboard build`")
    flags = row["flags"]
    return Entry(
        correct,
        counts,
        attacks=texts,
        method=str(row["method"]),
        seed=str(row["seed"]),
        suite=str(row["suite"]),
        protocol=str(row["protocol"]),
        threat=run.threat if run else None,
        data=str(row["data_hash"]),
        class_names=run.class_names if run else (),
        labels=run.labels if run else None,
        hits=run.hits if run else None,
        flags=None if pd.isna(flags) else frozenset(str(flags).split(";")) - {"none"},
        costs={name: float(row[name]) for name in COSTS if not pd.isna(row[name])},
        hardware=hardware_name(row["device"], row["precision"], row["threads"]),
    )


def _tallies(where: str, row: pd.Series[Any]) -> tuple[IntArray, IntArray]:
    """Return the right images and the images of every class; only a class without images may be empty."""
    correct, counts = [], []
    for index in range(sum(str(name).startswith("n_class_") for name in row.index)):
        images, share = (_number(row.get(f"{name}_{index}", math.nan)) for name in ("n_class", "class"))
        right = 0.0 if images == 0 else images * share
        if not (0 <= images < 2**53 and images.is_integer() and 0 <= right <= images):
            raise CorruptFile(f"{where}: class {index} has accuracy {share} on {images} images")
        if abs(right - round(right)) > images * 5.1e-5 + 1e-9:
            raise CorruptFile(f"{where}, column 'class_{index}': {share} is no share of {int(images)} images")
        correct.append(round(right))
        counts.append(int(images))
    return np.array(correct, dtype=np.int64), np.array(counts, dtype=np.int64)


def _number(cell: Any) -> float:
    """Read a cell of the sibling file, whose types are not checked; a text is NaN."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _classes_row(path: Path, where: str, row: pd.Series[Any]) -> pd.Series[Any]:
    """Return the row's line in the sibling file, which holds the classes of a leaderboard with many classes."""
    sibling = path.with_name(f"{path.stem}.classes.csv")
    if not sibling.exists():
        raise Missing(f"{sibling}: {path.name} has its classes there; copy it along")
    try:
        with open_regular(sibling) as file:
            classes = pd.read_csv(file, dtype={"seed": str, "run_id": str, "protocol": str})
        keys = ("protocol", "method", "seed", "checkpoint", "attack", "run_id")
        same = np.logical_and.reduce([(classes[key] == row[key]).to_numpy(dtype=bool) for key in keys])
    except (ValueError, KeyError) as error:
        raise CorruptFile(f"{sibling}: not the classes of a leaderboard: {' '.join(str(error).split())}") from None
    if same.sum() != 1:
        raise CorruptFile(f"{where}: {int(same.sum())} rows in {sibling.name}, expected 1")
    return classes[same].iloc[0]


def _run_of(path: Path, row: pd.Series[Any], attack: str) -> Entry | None:
    """Return the row's run from the `results` beside its `leaderboards`, if it exists and has the row's weights."""
    folder = run_folder(path, row)
    record = folder.read()
    versions = [key for key, found in record.get("protocols", {}).items() if found["hash"] == row["protocol"]]
    if not versions or record.get("status") != "complete" or record["weights"][KIND] != row["weights_hash"]:
        return None
    folder.verify()
    return from_run(folder, record, versions[0], attack)
