from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from fairbench.config import DataConfig, Environment, Evaluation, Recipe, RunSpec, Selection, Threat
from fairbench.conformance import check
from fairbench.data import Dataset, Split
from fairbench.errors import InvalidInput
from fairbench.method import AttackOutput, Batch, Context, Method, StepOutput
from fairbench.methods.mtard import natural_logits, update_share
from fairbench.models import build_model
from fairbench.plan import build_method, resolve_method
from fairbench.results import RunFolder
from fairbench.train import train


class Says(nn.Module):
    """Says the same of every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


TEACHER, NATURAL = Says(3.0, -1.0, 0.5), Says(-2.0, 0.0, 1.0)
BATCH = Batch(torch.linspace(0, 1, 24).view(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6))


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
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def branches(model: nn.Module, x_adv: Tensor, natural: list[float]) -> tuple[float, float]:
    """Mean KL of the adversarial and of the clean branch, in float64."""
    found = []
    for x, teacher in ((x_adv, [3.0, -1.0, 0.5]), (BATCH.x, natural)):
        log_p = log_softmax(model(x).detach().double().numpy(), axis=1)
        found.append(float((softmax(teacher) * (log_softmax(teacher) - log_p)).sum(axis=1).mean()))
    return found[0], found[1]


def test_it_keeps_the_contract():
    assert [str(finding) for finding in check("mtard") if not finding.passed] == []


def test_share_by_hand():
    # relative losses 1/2 and 1: the clean branch has two thirds of them
    share = update_share(torch.tensor(0.5), torch.tensor(0.5), torch.tensor(1.0), 0.1)
    assert share.item() == pytest.approx(0.5 + 0.1 * (2 / 3 - 0.5))


@given(st.floats(0, 1, width=32), st.floats(0, 10, width=32), st.floats(0, 10, width=32), st.floats(0, 1, width=32))
def test_share_stays_a_share(share, adv, clean, rate):
    moved = update_share(*(torch.tensor(value) for value in (share, adv, clean)), rate).item()
    assert -1e-6 <= moved <= 1 + 1e-6


@pytest.mark.parametrize(("one_teacher", "natural"), [(False, [-2.0, 0.0, 1.0]), (True, [3.0, -1.0, 0.5])])
def test_loss_agrees_with_float64(one_teacher, natural):
    model, x_adv = network(), (BATCH.x + 0.1).clamp(0, 1)
    method = set_up("mtard", model, one_teacher=one_teacher)
    method.share = torch.tensor(0.2)
    adv, clean = branches(model, x_adv, natural)
    output = method.loss(model, BATCH, AttackOutput(x_adv))
    assert output.loss.item() == pytest.approx(0.1 * (0.8 * adv + 0.2 * clean), rel=1e-5)


def test_the_share_moves_by_the_losses_relative_to_those_of_the_first_step():
    method, share = set_up("mtard", network()), 0.5
    model, x_adv, first = method.context.model, (BATCH.x + 0.1).clamp(0, 1), None
    for _ in range(4):
        now = np.array(branches(model, x_adv, [-2.0, 0.0, 1.0]))
        first = now if first is None else first

        def closure() -> StepOutput:
            method.context.optimizer.zero_grad()
            output = method.loss(model, BATCH, AttackOutput(x_adv))
            output.loss.backward()
            return output

        method.step(closure)
        share -= 0.025 * (share - now[1] / first[1] / (now / first).sum())
        assert method.share.item() == pytest.approx(share, abs=1e-6)
    assert share != 0.5


@pytest.mark.parametrize(("epoch", "rate"), [(7, 0.025), (8, 0.0025), (9, 0.00025)])
def test_the_rate_drops_at_the_papers_shares_of_the_schedule(epoch, rate):
    method = set_up("mtard", network(), epoch=epoch)
    method.first_adv, method.first_clean = torch.tensor(1.0), torch.tensor(1.0)
    method.now_adv, method.now_clean = torch.tensor(0.0), torch.tensor(1.0)
    method.step(lambda: StepOutput(torch.tensor(0.0)))
    assert method.share.item() == pytest.approx(0.5 + 0.5 * rate, abs=1e-6)


def test_a_run_without_a_natural_teacher_is_told_so():
    method = set_up("mtard", network())
    method.context.natural_teacher = None
    with pytest.raises(InvalidInput, match="needs a natural teacher"):
        natural_logits(method.context, BATCH.x)


def test_both_teachers_and_the_moving_share_act_on_training(tmp_path):
    weights, _ = trained(tmp_path, "mtard")
    assert not torch.equal(weights, trained(tmp_path, "mtard", share_rate=0.0)[0])
    assert not torch.equal(weights, trained(tmp_path, "mtard", one_teacher=True)[0])
