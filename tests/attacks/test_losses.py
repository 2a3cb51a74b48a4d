from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairbench import evaluate, registry
from fairbench.attacks import Ball, resolve
from fairbench.attacks.losses import ce, cw_loss, dlr, find_loss, kl, targeted_dlr
from fairbench.errors import InvalidInput, UnknownName
from fairbench.models import build_model, save_checkpoint
from fairbench.registration import register_loss

OWN = """
import torch
from fairbench.attacks.losses import ce

def adaptive(logits, y):
    return ce(logits / 1e5, y)

def margin(logits, y):
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    return wrong.amax(1) - logits.gather(1, y[:, None])[:, 0]

def mean(logits, y):
    return ce(logits, y).mean()

def detached(logits, y):
    return ce(logits, y).detach()

def failing(logits, y):
    return logits @ logits

def undefined(logits, y):
    return logits.sum(1) * torch.nan

def steep(logits, y):
    return logits.sum(1) + 0 * (logits - logits.detach()).abs().sqrt().sum(1)  # 0 times an infinite slope

number = 7
"""


def test_losses_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 5.0]])
    y = torch.tensor([0, 1])
    assert torch.allclose(cw_loss(logits, y), torch.tensor([0.5 - 2.0, 5.0 - 3.0]))
    expected = [
        math.log(sum(math.exp(z) for z in row)) - row[c] for row, c in zip(logits.tolist(), (0, 1), strict=True)
    ]
    assert torch.allclose(ce(logits, y), torch.tensor(expected))
    target = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])
    log_p = logits.log_softmax(1)
    by_hand = [
        0.5 * (math.log(0.5) - log_p[0, 0]) + sum(0.25 * (math.log(0.25) - log_p[0, c]) for c in (1, 2)),
        -log_p[1, 2],
    ]
    assert torch.allclose(kl(logits, target), torch.tensor(by_hand))


def test_margin_is_positive_exactly_where_the_prediction_is_wrong() -> None:
    logits, y = torch.randn(200, 7), torch.randint(7, (200,))
    assert torch.equal(cw_loss(logits, y) > 0, logits.argmax(1) != y)


def test_margin_gradient_is_one_up_and_one_down() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]], requires_grad=True)
    (grad,) = torch.autograd.grad(cw_loss(logits, torch.tensor([0])).sum(), logits)
    assert grad.tolist() == [[-1.0, 0.0, 1.0]]


def test_dlr_by_hand() -> None:
    logits = torch.tensor([[4.0, 1.0, 2.0, 0.0], [4.0, 1.0, 2.0, 0.0]])
    # correct: -(4 - 2) / (4 - 1); wrong: -(1 - 4) / (4 - 1)
    assert torch.allclose(dlr(logits, torch.tensor([0, 1])), torch.tensor([-2 / 3, 1.0]))
    shifted = 7.0 * logits + 3.0
    assert torch.allclose(dlr(shifted, torch.tensor([0, 1])), torch.tensor([-2 / 3, 1.0]))
    # with two classes there is no third logit to divide by
    assert torch.allclose(dlr(logits[:, :2], torch.tensor([0, 1])), torch.tensor([-3.0, 3.0]))


def test_targeted_dlr_by_hand() -> None:
    logits = torch.tensor([[4.0, 1.0, 2.0, 0.0]])
    # (z_target - z_true) / (4 - (1 + 0) / 2)
    assert torch.allclose(targeted_dlr(logits, torch.tensor([[0, 2]])), torch.tensor([-2 / 3.5]))
    assert torch.allclose(targeted_dlr(logits, torch.tensor([[1, 0]])), torch.tensor([3 / 3.5]))
    assert torch.allclose(targeted_dlr(logits[:, :3], torch.tensor([[0, 2]])), torch.tensor([-2.0]))


def test_equal_logits_give_finite_ratios() -> None:
    logits = torch.zeros(1, 5, requires_grad=True)
    (dlr(logits, torch.tensor([1])) + targeted_dlr(logits, torch.tensor([[1, 2]]))).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module with losses in the working directory, and a registry that forgets."""
    (tmp_path / "losses_of_mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    for table in ("_loaded", "_details", "_source"):
        monkeypatch.setattr(registry.losses, table, dict(getattr(registry.losses, table)))
    yield
    sys.modules.pop("losses_of_mine", None)


class Scaled(nn.Module):
    """Compares the brightness of the halves of 4x4 images; its large logits leave cross-entropy no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        halves = x.flatten(1).view(-1, 2, 8).mean(2)
        return 1e5 * halves


def _halves() -> tuple[Tensor, Tensor]:
    """Images whose halves differ in brightness by about 0.15: eps 0.12 can reverse that, a random start cannot."""
    x = 0.4 + 0.1 * torch.rand(40, 16, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 2
    x[:, :8] += 0.15 * (y == 0)[:, None]
    x[:, 8:] += 0.15 * (y == 1)[:, None]
    return x.view(40, 1, 4, 4), y


@pytest.mark.usefixtures("own")
def test_a_loss_made_for_the_model_breaks_what_the_cross_entropy_cannot() -> None:
    chosen = ["pgd-20:loss=ce", "pgd-20:loss=losses_of_mine:adaptive", "mim-20:loss=losses_of_mine:adaptive"]
    report = evaluate(Scaled(), _halves(), attacks=chosen, eps=0.12, flags=False)
    assert [report.average(attack=text) for text in chosen] == [1.0, 0.0, 0.0]


@pytest.mark.usefixtures("own")
def test_a_registered_loss_is_one_by_name() -> None:
    @register_loss("reversed", summary="makes an attack help")
    def backwards(logits: Tensor, y: Tensor) -> Tensor:
        return -ce(logits / 1e5, y)

    report = evaluate(Scaled(), _halves(), attacks=["pgd-20:loss=reversed"], eps=0.1, flags=False)
    assert report.average == 1.0
    with pytest.raises(UnknownName, match="unknown loss 'revrsed'; did you mean 'reversed'"):
        resolve("pgd-20:loss=revrsed", Ball())


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("losses_of_mine:margn", "unknown callable of module losses_of_mine: 'margn'; did you mean 'margin'"),
        ("losses_of_mine:number", "unknown callable of module losses_of_mine: 'number'"),
        ("losses_of_yours:margin", "loss 'losses_of_yours:margin': losses_of_yours cannot be imported"),
    ],
)
def test_a_loss_that_is_not_there_is_named_before_anything_runs(name: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve(f"pgd-20:loss={name}", Ball())
    assert message in str(caught.value)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mean", r"must return a number for each image, \[40\], not \[\]"),
        ("detached", "has no gradient with respect to the logits"),
        ("failing", "RuntimeError: .*mat1 and mat2"),
        ("undefined", "its value or its gradient is NaN"),
        ("steep", "its value or its gradient is NaN"),
    ],
)
def test_a_loss_that_is_none_is_one_line(name: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^loss 'losses_of_mine:{name}': {message}"):
        evaluate(Scaled(), _halves(), attacks=[f"pgd-20:loss=losses_of_mine:{name}"], eps=0.1, flags=False)


def test_a_callable_is_itself() -> None:
    assert find_loss(targeted_dlr) is targeted_dlr


def test_the_command_line_takes_losses_of_modules_and_of_plug_ins(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec, shape = "small-cnn:width=4", (1, 8, 8)
    save_checkpoint(tmp_path / "net.safetensors", build_model(spec, num_classes=3, shape=shape), spec, 3, shape)
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "test.npz", images=images, labels=np.arange(30) % 3)
    (tmp_path / "losses_of_mine.py").write_text(OWN)
    (tmp_path / "plugin.py").write_text(
        "from fairbench import register_loss\n"
        "from losses_of_mine import margin\n"
        "register_loss('margin-of-mine', summary='for a test')(margin)\n"
    )
    names = ("cw", "losses_of_mine:margin", "margin-of-mine")
    chosen = [f"pgd-5:iterate=last,loss={name},rel_step=0.5" for name in names]
    command = [sys.executable, "-m", "fairbench.cli", "evaluate", "net.safetensors", "--dataset", "npz:test.npz"]
    done = subprocess.run(
        [*command, "--attacks", ",".join(chosen), "--plugin", "plugin.py", "--no-flags", "--json", "--eps", "0.05"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found["attacks"]) == [*chosen, "union"]
    first, *others = (found["attacks"][text] for text in chosen)
    assert others == [first, first]
    assert found["flags"] == {}
    assert 0 < first["average"] < 1
