from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_runs import history

from fairbench.attacks import resolve
from fairbench.data import load_dataset
from fairbench.evaluation.judge import attack_verdicts
from fairbench.models import load_checkpoint
from fairbench.results.folder import RunFolder
from fairbench.train.loop import train
from fairbench.train.splits import divide


def test_best_holds_the_weights_of_the_epoch_with_the_highest_score(spec_of, tmp_path):
    spec, folder = spec_of(recipe__epochs=4), RunFolder(tmp_path / "run")
    dataset = load_dataset(spec.data.name)
    cost = train(spec, folder, dataset)
    rows = history(folder)
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3]
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    scores = [float(row["score"]) for row in rows]
    assert scores == pytest.approx([(float(row["average"]) + float(row["worst"])) / 2 for row in rows])
    assert cost["best_epoch"] == int(np.argmax(scores))
    model, metadata = load_checkpoint(folder.best)
    assert metadata.extra["epoch"] == cost["best_epoch"] + 1
    held = divide(dataset, spec, method_split=False).validation
    images, labels = dataset.train.images[held], dataset.train.labels[held]
    attack = resolve(spec.selection.attack, spec.threat)
    verdicts = attack_verdicts(model.to(memory_format=torch.channels_last), images, labels, [attack], batch_size=40)
    assert verdicts.summary(attack.text).average == pytest.approx(float(rows[cost["best_epoch"]]["average"]))
    assert verdicts.summary(attack.text).worst == pytest.approx(float(rows[cost["best_epoch"]]["worst"]))


def test_selection_may_look_at_nothing_or_at_the_test_split(spec_of, tmp_path):
    last, test = RunFolder(tmp_path / "last"), RunFolder(tmp_path / "test")
    train(spec_of(selection__rule="last"), last, load_dataset(spec_of().data.name))
    weights = [load_checkpoint(path)[0].state_dict() for path in (last.best, last.last)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert "score" not in history(last)[0]
    train(spec_of(selection__rule="test"), test, load_dataset(spec_of().data.name))
    assert all(float(row["average"]) * 40 == pytest.approx(round(float(row["average"]) * 40)) for row in history(test))


@pytest.mark.parametrize("absent", [0, 2])
def test_a_class_without_images_in_the_split_is_left_out(spec_of, tmp_path, absent):
    spec, folder = spec_of(selection__rule="test", recipe__epochs=1), RunFolder(tmp_path / "run")
    dataset = load_dataset(spec.data.name)
    kept = dataset.test.labels != absent
    test = replace(dataset.test, images=dataset.test.images[kept], labels=dataset.test.labels[kept])
    train(spec, folder, replace(dataset, test=test))
    (row,) = history(folder)
    model, _ = load_checkpoint(folder.best)
    attack = resolve(spec.selection.attack, spec.threat)
    (predicted,) = attack_verdicts(model, test.images, test.labels, [attack]).predicted.values()
    right = [np.mean(predicted[test.labels == one] == one) for one in np.unique(test.labels)]
    assert float(row["worst"]) == pytest.approx(min(right))
    assert float(row["score"]) == pytest.approx((np.mean(predicted == test.labels) + min(right)) / 2)
