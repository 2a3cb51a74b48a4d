from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import history, untrained

from fairbench.data import Dataset, Split, load_dataset
from fairbench.data.batch import Batch
from fairbench.errors import Diverged, FairbenchError, InvalidInput
from fairbench.leaderboard.columns import column
from fairbench.losses import cross_entropy
from fairbench.method.method import Method
from fairbench.method.record import AttackOutput, StepOutput
from fairbench.models import load_checkpoint
from fairbench.results.folder import RunFolder
from fairbench.suites.sections import Recipe
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import load_suite
from fairbench.train.loop import learning_rate, train
from fairbench.train.selection import select
from fairbench.train.splits import divide

IMAGES = 96 - 20  # 24 a class, of which 5 are held out


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", {0.0: 0.2, 0.5: 0.2, 0.99: 0.2}),
        ("multistep", {0.0: 0.2, 0.49: 0.2, 0.5: 0.02, 0.74: 0.02, 0.75: 0.002, 0.99: 0.002}),
        ("onecycle", {0.0: 0.0, 0.15: 0.1, 0.3: 0.2, 0.65: 0.1, 0.93: 0.02}),
    ],
)
def test_learning_rate_by_hand(schedule, rates):
    recipe = Recipe(lr=0.2, schedule=schedule, milestones=(0.5, 0.75), gamma=0.1)
    assert {share: learning_rate(recipe, share) for share in rates} == pytest.approx(rates)


@given(
    share=st.floats(0, 1, exclude_max=True),
    schedule=st.sampled_from(["constant", "multistep", "onecycle"]),
    milestones=st.lists(st.floats(0, 1), max_size=4).map(tuple),
)
def test_learning_rate_stays_between_zero_and_its_peak(share, schedule, milestones):
    recipe = Recipe(lr=0.3, schedule=schedule, milestones=milestones)
    assert 0 <= learning_rate(recipe, share) <= 0.3 + 1e-12


@settings(deadline=None)
@given(counts=st.lists(st.integers(12, 30), min_size=2, max_size=5), method_split=st.booleans(), seed=st.integers(0, 9))
def test_a_dataset_is_divided_into_disjoint_class_balanced_parts(counts, method_split, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    split = Split(np.zeros((len(labels), 2, 2, 1), np.uint8), labels)
    dataset = Dataset("made", split, split, tuple(map(str, range(len(counts)))))
    spec = RunSpec.model_construct(
        data=load_suite("digits").data.model_copy(
            update={"validation_per_class": 5, "method_per_class": 4, "split_seed": seed, "hold_out_alike": None}
        )
    )
    parts = divide(dataset, spec, method_split=method_split)
    held = len(parts.method) > 0
    assert held == method_split
    assert sorted([*parts.train, *parts.validation, *parts.method]) == list(range(len(labels)))
    assert np.bincount(labels[parts.validation]).tolist() == [5] * len(counts)
    assert np.bincount(labels[parts.train]).tolist() == [count - 5 - 4 * held for count in counts]
    if held:
        assert np.bincount(labels[parts.method]).tolist() == [4] * len(counts)
    other = divide(dataset, spec, method_split=not method_split)
    assert parts.validation.tolist() == other.validation.tolist()


def test_a_class_too_small_to_divide_is_named(spec_of):
    spec = spec_of(data__validation_per_class=24)
    with pytest.raises(InvalidInput, match="24 images of every class: class 0 has 24"):
        divide(load_dataset(spec.data.name), spec, method_split=False)


def test_cost_counts_every_image_that_passes_the_network(spec_of, tmp_path):
    spec = spec_of()
    cost = train(spec, RunFolder(tmp_path / "run"), load_dataset(spec.data.name))
    passes = 2 * IMAGES * (spec.recipe.attack_steps + 1)
    assert (cost["forwards"], cost["backwards"]) == (passes, passes)
    assert cost["flops"] > 0
    assert cost["flops"] * 16 % (2 * IMAGES) == 0  # two epochs of the first batch's operations an image


def test_the_time_of_a_training_leaves_its_selection_out_as_boards_say(spec_of, tmp_path, monkeypatch):
    real, spent = select, []

    def slow(*arguments):
        begin = time.perf_counter()
        time.sleep(0.5)
        selected = real(*arguments)
        spent.append(time.perf_counter() - begin)
        return selected

    monkeypatch.setattr("fairbench.train.loop.select", slow)
    spec, begin = spec_of(), time.perf_counter()
    cost = train(spec, RunFolder(tmp_path / "run"), load_dataset(spec.data.name))
    assert len(spent) == spec.recipe.epochs
    assert cost["train_seconds"] <= time.perf_counter() - begin - sum(spent)
    assert (
        column("train_seconds").meaning
        == "time of the training epochs with the warm start, without selection and teacher"
    )


def test_a_warm_start_is_where_training_begins(spec_of, tmp_path):
    spec = spec_of(model="small-cnn:width=4", recipe__lr=1e-9)
    start = untrained(spec)
    train(spec, RunFolder(tmp_path / "run"), load_dataset(spec.data.name), warm_start=start)
    trained = load_checkpoint(tmp_path / "run" / "last.safetensors")[0].state_dict()
    assert all(torch.allclose(trained[name], value, atol=1e-6) for name, value in start.state_dict().items())


def test_one_seed_gives_one_result_and_another_seed_another(spec_of, tmp_path):
    spec = spec_of()
    dataset = load_dataset(spec.data.name)
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        folder = RunFolder(tmp_path / name)
        train(spec.model_copy(update={"seed": seed}), folder, dataset)
        files.append([path.read_bytes() for path in (folder.best, folder.last, folder.history)])
        torch.rand(3)  # what others draw from the global generator changes nothing
    assert files[0] == files[1]
    assert files[0] != files[2]


class _Poisoned(Method):
    """Cross-entropy that returns NaN in batch 2 of epoch 1."""

    def setup(self, context):
        super().setup(context)
        self.fairness = torch.linspace(0, 1, context.num_classes)

    def begin_epoch(self, context):
        self._batch = 0

    def attack(self, model: torch.nn.Module, batch: Batch) -> AttackOutput:
        return AttackOutput(batch.x)

    def loss(self, model: torch.nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        logits = model(attacked.x_adv)
        poison = self.poison if (self.context.epoch, self._batch) == (1, 2) else 1.0
        self._batch += 1
        return StepOutput(poison * cross_entropy(logits, batch.y).mean(), logits_adv=logits)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_epoch(spec_of, tmp_path, monkeypatch, poison):
    spec, folder = spec_of(recipe__epochs=3), RunFolder(tmp_path / "run")
    dataset = load_dataset(spec.data.name)

    class Method(_Poisoned):
        pass

    Method.poison = poison
    monkeypatch.setattr("fairbench.train.loop.build_method", lambda _spec: Method())
    with pytest.raises(Diverged) as caught:
        train(spec, folder, dataset)
    message = str(caught.value)
    assert "epoch 1, batch 2" in message
    assert "'fairness': [0.0, 0.3333, 0.6667, 1.0]" in message
    assert "\n" not in message
    assert caught.value.exit_code == 2
    assert json.loads(folder.status.read_text())["epoch"] == 1
    assert len(history(folder)) == 1
    assert not folder.last.exists()

    Method.poison = 1.0
    train(spec, folder, dataset)
    whole = RunFolder(tmp_path / "whole")
    train(spec, whole, dataset)
    assert folder.last.read_bytes() == whole.last.read_bytes()


def test_weights_that_stop_being_numbers_stop_the_run(spec_of, tmp_path):
    spec = spec_of(recipe__lr=1e38, recipe__batch_size=64)
    with pytest.raises(Diverged, match=r"epoch 0, .*class-wise state: none"):
        train(spec, RunFolder(tmp_path / "run"), load_dataset(spec.data.name))


def test_a_method_that_needs_a_teacher_says_so(spec_of, tmp_path):
    spec = spec_of("absld")
    with pytest.raises(FairbenchError, match="needs a teacher"):
        train(spec, RunFolder(tmp_path / "run"), load_dataset(spec.data.name))
