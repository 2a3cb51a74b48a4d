"""Every method on the digits suite: two epochs here, and all sixty in the committed board."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fairbench import registry
from fairbench.data import load_dataset
from fairbench.method.composition import resolve_method
from fairbench.results.folder import RunFolder, find_runs
from fairbench.run.pipeline import train_run
from fairbench.run.plan import plan
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import load_suite

ROOT = Path(__file__).parents[2]
NAMES = [name for name in registry.methods.names() if registry.methods.entry(name).module.startswith("fairbench.")]
# Runs of seed 0 on the latest board that a method is on, by method, version and network.
STUDENTS = {
    (record["method"], record["spec"]["version"], record["spec"]["model"]): (folder, record)
    for folder, record in find_runs(ROOT / "results", "digits")
    if record["spec"]["role"] == "student" and record["seed"] == 0 and not record["spec"]["custom"]
}
LATEST = {name: max(key for key in STUDENTS if key[0] == name) for name in sorted({key[0] for key in STUDENTS})}
# Equal for all classes, and meant to be: the ablations without classes.
EQUAL = {"absld_uniform"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """Return `trained(name) -> folder`: a method trained once for two epochs, after its prerequisites.

    The first 60 training images of each class are enough for that, of which the suite holds out 30.
    """
    results = tmp_path_factory.mktemp("digits")
    short = {"recipe.epochs": 2, "recipe.batch_size": 128, "recipe.attack_steps": 3, "recipe.attack_rel_step": 0.5}
    suite, data = load_suite("digits"), load_dataset("digits", train_per_class=60)

    @cache
    def train(name: str) -> RunFolder:
        for spec in plan(suite, methods=[name], seeds=[0], overrides={**short, "data.train_per_class": 60}):
            folder = RunFolder(results / spec.folder)
            folder.path.mkdir(parents=True, exist_ok=True)
            train_run(spec, folder, data, results)
        return folder

    return train


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_two_epochs(name: str, trained: Callable[[str], RunFolder]):
    folder = trained(name)
    weights = load_file(folder.last)
    assert all(torch.isfinite(value).all() for value in weights.values())
    rows = history(folder)
    assert all(np.isfinite(float(value)) for row in rows for value in row.values() if value)
    spec = RunSpec.model_validate(folder.read()["spec"])
    assert len(rows) == spec.recipe.epochs <= 2
    plain = trained(counterpart(name))
    same = [torch.equal(value, load_file(plain.last)[key]) for key, value in weights.items()]
    assert not all(same), f"{name} trains what {counterpart(name)} trains"


@pytest.mark.parametrize("name", LATEST)
def test_its_mechanism_was_at_work_on_the_committed_board(name: str):
    folder, record = STUDENTS[LATEST[name]]
    vectors = class_wise(folder)
    assert all(np.isfinite(values).all() for values in vectors.values())
    if vectors and name not in EQUAL:  # one that a variant leaves unused, as FRL's do, stays as it is
        apart = [vector for vector, values in vectors.items() if np.ptp(values, axis=1).max() > 0]
        assert apart, f"none of {', '.join(vectors)} ever told two classes apart"
    _, plain = STUDENTS[(counterpart(name), *LATEST[name][1:])]
    assert record["weights"]["last"] != plain["weights"]["last"]


def counterpart(name: str) -> str:
    """The method without its addition: the base of a composition, otherwise the oldest other method."""
    base = resolve_method(name).base
    return base if base != name else "natural" if name == "sat" else "sat"


def history(folder: RunFolder) -> list[dict[str, str]]:
    with folder.history.open(newline="") as handle:
        return list(csv.DictReader(handle))


def class_wise(folder: RunFolder) -> dict[str, np.ndarray]:
    """Class-wise state by name, float [epochs, classes]."""
    rows = history(folder)
    names = [column.removesuffix("[0]") for column in rows[0] if column.endswith("[0]")]
    return {name: np.array([[float(row[f"{name}[{c}]"]) for c in range(10)] for row in rows]) for name in names}
