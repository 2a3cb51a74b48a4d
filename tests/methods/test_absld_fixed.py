from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fairbench.config import DataConfig, Environment, Evaluation, Recipe, RunSpec, Selection, Threat
from fairbench.conformance import check
from fairbench.data import Dataset, Split
from fairbench.errors import InvalidInput
from fairbench.method import ClassRecord, Context, Method
from fairbench.methods.absld_fixed import log_uniform
from fairbench.models import build_model
from fairbench.plan import build_method, resolve_method
from fairbench.results import RunFolder
from fairbench.train import train

TEACHER = NATURAL = None
NAMES = ["absld_uniform", "absld_random", "absld_manual"]


def set_up(name: str, model: nn.Module, *, epoch: int = 0, seed: int = 0, **settings: Any) -> Method:
    """Set up a method in epoch `epoch` of 10 with teachers that say the same of every image, whatever is asked."""
    method = build_method(resolve_method(name, {f"{name}.{key}": value for key, value in settings.items()}))
    method.setup(
        Context(
            model=model,
            num_classes=3,
            class_counts=torch.tensor([2, 2, 2]),
            device=torch.device("cpu"),
            threat=Threat(eps=0.1),
            recipe=Recipe(attack_steps=2, attack_rel_step=0.5),
            seed=seed,
            epochs=10,
            train_size=6,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            teacher=TEACHER,
            natural_teacher=NATURAL,
            epoch=epoch,
        )
    )
    return method


def trained(folder: Path, name: str, **settings: Any) -> tuple[Tensor, list[dict[str, str]]]:
    """Train two epochs on three generated classes: the last weights as one vector, and the rows of the history."""
    rng, labels = np.random.default_rng(0), np.arange(36) % 3
    images = rng.integers(0, 130, (36, 8, 8, 1)) + 55 * labels[:, None, None, None]
    split = Split(images.astype(np.uint8), labels)
    spec = RunSpec(
        suite="tiny",
        version=1,
        method=resolve_method(name, {f"{name}.{key}": value for key, value in settings.items()}),
        data=DataConfig(name="generated", validation_per_class=2),
        data_hash="",
        model="small-cnn:width=4,batchnorm=true",
        recipe=Recipe(epochs=2, batch_size=10, crop_padding=1, attack_steps=3),
        threat=Threat(eps=0.1),
        selection=Selection(rule="last"),
        evaluation=Evaluation(),
        seed=0,
        environment=Environment(torch=torch.__version__),
        protocol="",
    )
    teachers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        teachers.append(build_model(spec.model, num_classes=3, shape=(1, 8, 8)).eval().requires_grad_(False))
    run = RunFolder(folder / "-".join([name, *settings]))
    run.path.mkdir(parents=True)
    data = Dataset("generated", split, split, ("a", "b", "c"))
    train(spec, run, data, teacher=teachers[0], natural_teacher=teachers[1])
    weights = torch.cat([value.double().flatten() for value in load_file(run.last).values()])
    assert torch.isfinite(weights).all()
    with run.history.open(newline="") as handle:
        return weights, list(csv.DictReader(handle))


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def record(*risk: float) -> ClassRecord:
    found = ClassRecord(3, torch.device("cpu"))
    found.add(torch.arange(3), {"ce_adv": torch.tensor(risk)})
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_contract(name):
    assert [str(finding) for finding in check(name) if not finding.passed] == []


def test_log_uniform_by_hand():
    draw = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(log_uniform(draw, 0.5, 8.0), torch.tensor([0.5, 2.0, 8.0]))


def test_random_temperatures_lie_between_the_bounds_and_depend_on_the_seed_alone():
    drawn = []
    for seed in (0, 0, 1):
        (policy,) = set_up("absld_random", network(), seed=seed).policies
        policy.end_epoch(record(1.0, 2.0, 3.0))
        drawn.append(torch.stack(list(policy.vectors().values())))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    for temperatures in drawn:
        assert len(temperatures.unique()) == 6
        assert temperatures.min() >= 0.5
        assert temperatures.max() <= 5


def test_manual_temperatures_are_set_by_the_first_epoch_and_never_again():
    (policy,) = set_up("absld_manual", network()).policies
    assert policy.vectors()["temperature_adv"].tolist() == [1.0, 1.0, 1.0]
    policy.end_epoch(record(3.0, 0.0, 0.0))  # gaps 2, -1, -1
    (later,) = set_up("absld_manual", network(), epoch=1).policies
    later.end_epoch(record(3.0, 0.0, 0.0))
    for vector in ("temperature_adv", "temperature_clean"):
        torch.testing.assert_close(policy.vectors()[vector], torch.tensor([0.5, 1.25, 1.25]))
        assert later.vectors()[vector].tolist() == [1.0, 1.0, 1.0]


def test_manual_temperatures_can_be_given_by_hand():
    (policy,) = set_up("absld_manual", network(), temperatures=(0.5, 2.0, 1.0)).policies
    policy.end_epoch(record(3.0, 0.0, 0.0))
    for temperatures in policy.vectors().values():
        assert temperatures.tolist() == [0.5, 2.0, 1.0]


@pytest.mark.parametrize("temperatures", [(1.0, 2.0), (1.0, 2.0, 0.0)])
def test_manual_temperatures_that_do_not_fit_are_refused(temperatures):
    with pytest.raises(InvalidInput, match="give 3 positive numbers"):
        set_up("absld_manual", network(), temperatures=temperatures)


def test_a_uniform_temperature_of_one_is_rslad(tmp_path):
    assert torch.equal(trained(tmp_path, "absld_uniform", temperature=1.0)[0], trained(tmp_path, "rslad")[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_temperatures_change_the_training_and_stay_where_they_are(tmp_path, name):
    weights, history = trained(tmp_path, name)
    assert not torch.equal(weights, trained(tmp_path, "rslad")[0])
    columns = [f"temperature_{branch}[{c}]" for branch in ("adv", "clean") for c in range(3)]
    values = [[float(row[column]) for column in columns] for row in history]
    assert values[0] == values[1]
    assert max(abs(value - 1) for value in values[0]) > 0.1
    assert (len(set(values[0])) == 1) == (name == "absld_uniform")
