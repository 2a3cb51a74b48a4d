"""Runs of the tiny suite that conftest's `make_suite` writes: their plan, copies of their folders, and their bits."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fairbench.models import build_model
from fairbench.results.folder import RunFolder
from fairbench.run.benchmark import execute_plan, prepare_plan
from fairbench.run.plan import plan
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import load_suite

FILES = {"run.json", "verdicts.npz", "history.csv", "best.safetensors", "last.safetensors"}
ATTACKS = {"best": ["clean", "pgd-10:rel_step=0.25"], "last": ["clean"], "batch_size": 40}


def tiny_specs(suite: Path, method: str = "absld", **changes: Any) -> list[RunSpec]:
    """The runs of one method; `recipe__epochs=1` changes a field of a section."""
    chosen = load_suite(str(suite)).override({key.replace("__", "."): value for key, value in changes.items()})
    return plan(chosen, methods=[method])


def run_suite(suite: str, *, jobs: int | None = None, root: Path = Path("fairbench-out"), **choice: Any) -> Path:
    """Plan a suite and execute it on this machine; `choice` holds keyword arguments of `prepare_plan`."""
    return execute_plan(prepare_plan(suite, root=root, **choice), jobs=jobs, root=root)


def copy_runs(finished: tuple[RunSpec, Path], target: Path, *, student: bool = True) -> RunFolder:
    """A copy of the results, of the teacher's alone unless `student`; returns the student's folder."""
    spec, results = finished
    for given in [*spec.prerequisites, spec][: 2 if student else 1]:
        assert isinstance(given, RunSpec)
        (target / given.folder).mkdir(parents=True)
        for path in (results / given.folder).iterdir():
            (target / given.folder / path.name).write_bytes(path.read_bytes())
    return RunFolder(target / spec.folder)


def bits(folder: RunFolder) -> dict[str, bytes]:
    """Content of every file but the record, which holds times."""
    return {name: (folder.path / name).read_bytes() for name in FILES - {"run.json"}}


def refuse(*_: Any, **__: Any) -> None:
    """Stand in for what must not run again."""
    raise AssertionError("this must not run again")


def untrained(spec: RunSpec) -> nn.Module:
    """A network of the run's architecture, frozen, that stands for its teacher."""
    torch.manual_seed(7)
    return build_model(spec.model, num_classes=4, shape=(1, 8, 8)).eval().requires_grad_(False)


def history(folder: RunFolder) -> list[dict[str, str]]:
    """The rows of a run's history.csv."""
    with folder.history.open(newline="") as handle:
        return list(csv.DictReader(handle))
