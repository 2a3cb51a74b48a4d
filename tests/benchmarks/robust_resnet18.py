"""A robust ResNet-18 for CIFAR-10 in under an hour on one core: what the benchmarks of attacks are pointed at.

    python tests/benchmarks/robust_resnet18.py cifar10 robust-resnet18.safetensors

The natural network that pyautoattack ships is trained adversarially for one epoch: a single step from a random start
(Wong et al. 2020, "Fast is better than free", algorithm 3) at 8/255, in bfloat16. It says how robust the result is.
"""

from __future__ import annotations

import argparse

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fairbench
from fairbench.data.sources import load_dataset
from fairbench.evaluation.pixels import as_input, as_tensor
from fairbench.models import save_checkpoint
from fairbench.models.opening import open_model

EPS, STEP, BATCH, RATE = 8 / 255, 10 / 255, 64, 0.02


def single_step(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return images [B,C,H,W] one signed step of the cross-entropy away from a random start, inside the ball."""
    start = torch.empty_like(x).uniform_(-EPS, EPS).add_(x).clamp_(0, 1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(model(start).float(), y)
    (gradient,) = torch.autograd.grad(loss, start)
    moved = start.detach() + STEP * gradient.sign()
    return torch.min(torch.max(moved, x - EPS), x + EPS).clamp(0, 1)


def main() -> None:
    """Train, save and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="cifar10, or npz:TRAIN,TEST")
    parser.add_argument("out", help="the checkpoint to write")
    parser.add_argument("--images", type=int, default=50_000, help="how many training images")
    arguments = parser.parse_args()
    dataset = load_dataset(arguments.data)
    torch.manual_seed(0)
    model = open_model("pyautoattack:model_test").to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    batches = torch.randperm(len(dataset.train.labels))[: arguments.images].split(BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(batches))
    labels = torch.from_numpy(dataset.train.labels).long()
    for index in track(batches, "training"):
        x = as_input(as_tensor(dataset.train.images[index.numpy()]), torch.device("cpu"))
        x = x.flip(3) if torch.rand(()) < 0.5 else x
        x_adv = single_step(model, x, labels[index])
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(model(x_adv).float(), labels[index])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    save_checkpoint(arguments.out, model, "resnet18", 10, (3, 32, 32), class_names=dataset.class_names)
    test = dataset.test.images[:500], dataset.test.labels[:500]
    report = fairbench.evaluate(model.eval(), test, attacks=["clean", "pgd-20:rel_step=0.25"], flags=False)
    for attack in report.verdicts:
        print(f"{attack}: {report.summary(attack).average:.3f} on 500 test images")


if __name__ == "__main__":
    main()
