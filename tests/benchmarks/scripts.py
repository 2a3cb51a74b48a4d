"""Training steps written as the papers' scripts are: the peer that training is timed against.

float32, NCHW, a DataLoader with worker processes, parameters that require gradients during the attack, and a Python
loop over samples where a script has one (temperatures and class statistics in ABSLD's, survived steps in Fair-ARD's).
Attacks get their gradient in one of two ways, and `GRADIENTS` has both: some ask autograd for the input's alone, others
call `loss.backward()`, which makes those of all weights as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

__all__ = ["GRADIENTS", "STEPS", "Attack", "Images", "endless"]

Step = Callable[[Tensor, Tensor], None]
Gradient = Callable[[Tensor, Tensor], Tensor]


class Images(Dataset[tuple[Tensor, int]]):
    """Float images in [0,1], cropped and flipped one at a time in the worker."""

    def __init__(self, x: Tensor, y: Tensor, padding: int) -> None:
        self.x, self.y, self.padding = x, y, padding

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, (height, width) = self.x[index], self.x.shape[2:]
        top, left = torch.randint(2 * self.padding + 1, (2,)).tolist()
        image = F.pad(image, [self.padding] * 4)[:, top : top + height, left : left + width]
        return (image.flip(2) if torch.rand(()) < 0.5 else image), int(self.y[index])


def endless(
    images: Images, batch_size: int, device: torch.device, *, workers: int = 2
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches on the device, epoch after epoch."""
    pinned = device.type == "cuda"
    loader = DataLoader(images, batch_size, shuffle=True, drop_last=True, num_workers=workers, pin_memory=pinned)
    while True:
        for x, y in loader:
            yield x.to(device), y.to(device)


def _of_input(value: Tensor, x_adv: Tensor) -> Tensor:
    return torch.autograd.grad(value, [x_adv])[0]


def _of_everything(value: Tensor, x_adv: Tensor) -> Tensor:
    value.backward()
    assert x_adv.grad is not None
    return x_adv.grad


GRADIENTS: dict[str, Gradient] = {"autograd.grad": _of_input, "loss.backward()": _of_everything}


class Attack(NamedTuple):
    """K projected sign steps of eps / 4."""

    gradient: Gradient
    eps: float
    steps: int

    def ascend(self, model: nn.Module, x: Tensor, start: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        x_adv = start.detach()
        for _ in range(self.steps):
            x_adv.requires_grad_()
            with torch.enable_grad():
                value = loss(model(x_adv))
            grad = self.gradient(value, x_adv)
            x_adv = x_adv.detach() + self.eps / 4 * torch.sign(grad.detach())
            x_adv = torch.min(torch.max(x_adv, x - self.eps), x + self.eps)
            x_adv = torch.clamp(x_adv, 0.0, 1.0)
        return x_adv


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss.item()  # the scripts print it


def sat(model: nn.Module, teacher: nn.Module, optimizer: torch.optim.Optimizer, attack: Attack) -> Step:
    def step(x: Tensor, y: Tensor) -> None:
        model.train()
        start = x + torch.empty_like(x).uniform_(-attack.eps, attack.eps)
        x_adv = attack.ascend(model, x, start, lambda z: F.cross_entropy(z, y, reduction="sum"))
        _update(optimizer, F.cross_entropy(model(x_adv), y))

    return step


def trades(model: nn.Module, teacher: nn.Module, optimizer: torch.optim.Optimizer, attack: Attack) -> Step:
    divergence = nn.KLDivLoss(reduction="sum")

    def step(x: Tensor, y: Tensor) -> None:
        model.eval()
        start = x + 0.001 * torch.randn_like(x)

        def inner(z: Tensor) -> Tensor:  # the script computes the clean prediction anew at every step
            return divergence(F.log_softmax(z, dim=1), F.softmax(model(x), dim=1))

        x_adv = attack.ascend(model, x, start, inner)
        model.train()
        clean = model(x)
        robust = divergence(F.log_softmax(model(x_adv), dim=1), F.softmax(model(x), dim=1)) / len(y)
        _update(optimizer, F.cross_entropy(clean, y) + 6.0 * robust)

    return step


def _divergence(z: Tensor, target: Tensor) -> Tensor:
    return (target * (torch.log(target + 1e-5) - F.log_softmax(z, dim=1))).mean()


def rslad(model: nn.Module, teacher: nn.Module, optimizer: torch.optim.Optimizer, attack: Attack) -> Step:
    def step(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            target = F.softmax(teacher(x), dim=1)
        model.eval()
        x_adv = attack.ascend(model, x, x + 0.001 * torch.randn_like(x), lambda z: _divergence(z, target))
        model.train()
        _update(optimizer, 5 / 6 * _divergence(model(x_adv), target) + 1 / 6 * _divergence(model(x), target))

    return step


def absld(model: nn.Module, teacher: nn.Module, optimizer: torch.optim.Optimizer, attack: Attack) -> Step:
    tau_adv, tau_clean, risk_adv, risk_clean = (torch.ones(1000) for _ in range(4))

    def step(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            logits = teacher(x)
        adv, clean = logits.clone(), logits.clone()
        for i in range(len(y)):
            adv[i] = adv[i] / tau_adv[y[i].item()]
            clean[i] = clean[i] / tau_clean[y[i].item()]
        adv, clean = F.softmax(adv, dim=1), F.softmax(clean, dim=1)
        model.eval()
        x_adv = attack.ascend(model, x, x + 0.001 * torch.randn_like(x), lambda z: _divergence(z, adv))
        model.train()
        on_adv, on_clean = model(x_adv), model(x)
        for z, risk in ((on_adv, risk_adv), (on_clean, risk_clean)):
            values = F.cross_entropy(z.detach(), y, reduction="none")
            for i in range(len(y)):
                risk[y[i].item()] += values[i].item()
        _update(optimizer, 5 / 6 * _divergence(on_adv, adv) + 1 / 6 * _divergence(on_clean, clean))

    return step


def fair_ard(model: nn.Module, teacher: nn.Module, optimizer: torch.optim.Optimizer, attack: Attack) -> Step:
    weight, survived, temperature = torch.ones(1000), torch.zeros(1000), 30.0

    def step(x: Tensor, y: Tensor) -> None:
        model.train()

        def inner(z: Tensor) -> Tensor:
            right = z.detach().argmax(dim=1) == y
            for i in range(len(y)):
                if right[i].item():
                    survived[y[i].item()] += 1
            return F.cross_entropy(z, y, reduction="sum")

        x_adv = attack.ascend(model, x, x + torch.empty_like(x).uniform_(-attack.eps, attack.eps), inner)
        with torch.no_grad():
            target = F.softmax(teacher(x) / temperature, dim=1)
        scale = torch.tensor([weight[label.item()] for label in y], device=x.device)
        on_adv, _ = model(x_adv), model(x)
        values = F.kl_div(F.log_softmax(on_adv / temperature, dim=1), target, reduction="none").mean(dim=1)
        _update(optimizer, temperature**2 * (scale * values).mean())

    return step


STEPS = {"sat": sat, "trades": trades, "rslad": rslad, "absld": absld, "fair_ard": fair_ard}
