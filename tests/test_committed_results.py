"""The regression gate: committed weights, attacked again, give their committed verdicts.

A network trained again on another processor is no baseline; the same weights are.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from committed import committed_run

from fairbench.attacks import resolve
from fairbench.data import Dataset, load_dataset
from fairbench.errors import Missing
from fairbench.evaluation.judge import attack_verdicts
from fairbench.leaderboard import builder
from fairbench.leaderboard.board import load_leaderboard
from fairbench.models import load_checkpoint, weights_hash
from fairbench.results.folder import RunFolder, find_runs
from fairbench.run.zoo import find_models, models_folder, open_published
from fairbench.statistics import metrics
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import load_suite

ROOT = Path(__file__).parent.parent
RUNS = find_runs(ROOT / "results", "digits")
GUARDED = ("teacher", "sat", "trades", "rslad", "absld")
ATTACKS = ("clean", "fgsm", "pgd-20")
SAME = 0.995
SAMPLE = 250  # first test images, which have the random numbers and the batch that they had in the evaluation
OTHERS = [
    run
    for suite in sorted(path.name for path in (ROOT / "results").iterdir() if path.name != "digits")
    for run in find_runs(ROOT / "results", suite)
]
# A network trained without attacks is so sure that rounding decides over the sign of some gradients.
UNSIGNED, SAME_UNSIGNED = ("natural-teacher",), 0.98


def _case(folder: RunFolder, record: dict):
    """A test case of a run: those of the default methods' first seed in every test run, all others in the slow ones."""
    first = record["method"] in GUARDED and record["seed"] == 0
    name = f"{record['method']}-{record['seed']}"
    return pytest.param(folder, record, id=name, marks=() if first else pytest.mark.slow)


def test_there_is_something_to_guard():
    assert {record["method"] for _, record in RUNS} >= set(GUARDED)


def test_every_run_of_the_first_seed_has_its_weights():
    """Of version 4 on, the repository keeps the weights of seed 0 alone; docs/prune_results.py removes the others."""
    assert all(folder.best.exists() for folder, record in RUNS if record["seed"] == 0 or "3" in record["protocols"])


@pytest.mark.parametrize(("folder", "record"), [_case(*run) for run in RUNS if run[0].best.exists()])
def test_committed_weights_give_their_committed_verdicts(folder: RunFolder, record: dict):
    spec = RunSpec.model_validate(record["spec"])
    assert spec.run_id == record["run_id"] == folder.path.name
    folder.verify()
    data = load_dataset(spec.data.name)
    assert data.hash == spec.data_hash
    model, _ = load_checkpoint(folder.best)
    assert weights_hash(model) == record["weights"]["best"]
    stored = folder.read_verdicts()
    found = attack_verdicts(
        model,
        data.test.images,
        data.test.labels,
        [resolve(name, spec.threat) for name in ATTACKS],
        batch_size=spec.evaluation.batch_size,
        seed=spec.evaluation.seed,
        engine=spec.environment.engine or "plain",
    )
    for name in ATTACKS:
        committed = stored[f"best/{name}"]
        same = SAME_UNSIGNED if record["method"] in UNSIGNED and name != "clean" else SAME
        assert np.mean(found[name] == committed) >= same, name
        drop = _worst(data.test.labels, committed) - _worst(data.test.labels, found[name])
        assert drop <= 1 / 50, f"{name}: the worst class lost {100 * drop:.0f} points"


@pytest.mark.parametrize(
    ("folder", "record"),
    [pytest.param(*run, id=f"{run[1]['suite']}-{run[1]['method']}-{run[1]['seed']}") for run in OTHERS],
)
def test_a_sample_of_other_boards_gives_its_committed_verdicts(folder: RunFolder, record: dict):
    spec = RunSpec.model_validate(record["spec"])
    assert spec.run_id == record["run_id"] == folder.path.name
    folder.verify()
    data, model = _at_hand(spec), _weights(spec, folder)
    assert weights_hash(model) == record["weights"]["best"]
    stored, asked = folder.read_verdicts(), [name for name in ATTACKS if name in spec.evaluation.best]
    found = attack_verdicts(
        model,
        data.test.images[:SAMPLE],
        data.test.labels[:SAMPLE],
        [resolve(name, spec.threat) for name in asked],
        batch_size=spec.evaluation.batch_size,
        seed=spec.evaluation.seed,
        engine=spec.environment.engine or "plain",
    )
    for name in asked:
        differ = int((found[name] != stored[f"best/{name}"][:SAMPLE]).sum())
        assert differ <= 2, f"{name}: {differ} of {SAMPLE} verdicts differ"


@pytest.mark.parametrize("suite", sorted({path.parent.name for path in (ROOT / "leaderboards").glob("*/v*.csv")}))
def test_committed_boards_are_what_their_results_give(suite: str, tmp_path: Path):
    for built in builder.build_boards(ROOT / "results", tmp_path, suite):
        committed = ROOT / "leaderboards" / suite / built.name
        assert built.read_bytes() == committed.read_bytes()
        if "." not in built.stem:
            assert not load_leaderboard(committed).empty


def test_a_warm_start_counts_in_what_a_method_costs():
    methods = ("faal", "sat", "warm-start")
    forwards = {method: committed_run(method, 0, 3).read()["cost"]["forwards"] for method in methods}
    board = load_leaderboard(ROOT / "leaderboards" / "digits" / "v3.csv").query("seed == '0'").set_index("method")
    assert set(board.loc["faal", "forwards"]) == {forwards["faal"] + forwards["warm-start"]}
    assert set(board.loc["sat", "forwards"]) == {forwards["sat"]}


def _at_hand(spec: RunSpec) -> Dataset:
    """The dataset of a run; skips where it is not on this machine or is not the run's."""
    try:
        data = load_dataset(spec.data.name, train_per_class=spec.data.train_per_class)
    except Missing as error:
        pytest.skip(str(error))
    assert data.hash == spec.data_hash
    return data


def _weights(spec: RunSpec, folder: RunFolder) -> torch.nn.Module:
    """The weights of a run; skips where they are neither committed nor in the folder of published models."""
    if spec.published is not None:
        ((entry, place),) = find_models(load_suite(spec.suite), models_folder(), [spec.label])
        if place is None:
            pytest.skip(f"{entry.name} is not in {models_folder()} (FAIRBENCH_MODELS)")
        return open_published(spec.model_copy(update={"checkpoint": place}))
    if not folder.best.is_file():
        pytest.skip(f"{folder.path}: its weights are not committed")
    return load_checkpoint(folder.best)[0]


def _worst(labels: np.ndarray, predicted: np.ndarray) -> float:
    return float(metrics.class_accuracy(labels, predicted, 10).min())
