"""A training run in miniature: any method on generated images, with its hooks called in the trainer's order."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fairbench.authoring.syncs import SyncWatch, locate
from fairbench.data.batch import Batch
from fairbench.data.loader import draw_by_class
from fairbench.errors import FairbenchError
from fairbench.method.composition import build_method
from fairbench.method.context import Context
from fairbench.method.policy import ClassPolicy
from fairbench.method.record import AttackOutput, ClassRecord, StepOutput
from fairbench.suites.sections import MethodSpec, Precision, Recipe, ThreatSection

__all__ = ["HookError", "Rehearsal", "Step"]

SHAPE = (3, 8, 8)
EPOCHS = 2
OFFSET = 5  # indices are positions in the whole training split, part of which is held out
Order = Literal["shuffled", "by class"]


class HookError(FairbenchError):
    """A hook raised an exception or returned an invalid value; the message names the hook, the fault and the place."""


@dataclass(frozen=True)
class Step:
    """The values that the hooks exchanged in one step; `original` is a copy of the images given to the attack."""

    batch: Batch
    original: Tensor
    attacked: AttackOutput
    output: StepOutput


class Rehearsal:
    """One method, set up on a tiny network and `counts[c]` images of class c, with everything that it needs.

    `policies` are added to those of the method; `inspect` sees each step before its statistics are taken. Two
    rehearsals with equal arguments use the same weights, images and random numbers. Raises HookError.
    """

    def __init__(
        self,
        spec: MethodSpec,
        counts: Sequence[int] = (8, 8, 8, 8),
        *,
        batch_size: int = 16,
        order: Order = "shuffled",
        precision: Precision = "float32",
        policies: Sequence[ClassPolicy] = (),
        inspect: Callable[[Rehearsal, Step], None] = lambda *_: None,
        watch: SyncWatch | None = None,
    ) -> None:
        self.inspect = inspect
        self.watch = watch or SyncWatch()
        self.classes = len(counts)
        self.gradients: list[Tensor] = []
        self.batches = _batches(counts, batch_size, order)
        torch.manual_seed(0)
        self.model = _network(self.classes).to(memory_format=torch.channels_last)
        with self.calling("the constructor"):
            self.method = build_method(spec)
        self.method.policies = [*self.method.policies, *policies]
        self.context = self._context(counts, batch_size, precision)
        with self.calling("setup"):
            self.method.setup(self.context)
        self.record = ClassRecord(self.classes, self.context.device)

    def epoch(self) -> None:
        """Run one whole epoch."""
        self.begin()
        self.go()
        self.end()

    def go(self) -> None:
        """Take the steps of an epoch."""
        for number in range(len(self.batches)):
            self.step(self.drawn(number))

    def drawn(self, number: int) -> Batch:
        """Return batch `number` of the epoch, drawn as the loader draws it for a method that samples classes."""
        with self.calling("sampling"):
            probabilities = self.method.sampling()
        if probabilities is None:
            return self.batches[number]
        x, y, index = (torch.cat(parts) for parts in zip(*map(_parts, self.batches), strict=True))
        start = sum(len(batch.y) for batch in self.batches[:number])
        places = torch.arange(start, start + len(self.batches[number].y))
        rows = draw_by_class(y, probabilities, places, seed=self.context.seed, epoch=self.context.epoch)
        return Batch(x[rows], y[rows], index[rows])

    def begin(self) -> None:
        """Begin an epoch as the trainer does, with every generator seeded by the epoch's number."""
        torch.manual_seed(self.context.epoch + 1)
        self.record = ClassRecord(self.classes, self.context.device)
        with self.calling("begin_epoch"):
            self.method.begin_epoch(self.context)

    def end(self) -> None:
        """End the epoch and advance to the next."""
        with self.calling("end_epoch"):
            self.method.end_epoch(self.record)
        self.context.epoch += 1

    def step(self, drawn: Batch) -> Step:
        """Take one training step."""
        method, model, optimizer = self.method, self.model, self.context.optimizer
        batch, original, attacked = self.attack(drawn)

        def closure() -> StepOutput:
            optimizer.zero_grad(set_to_none=True)
            with self._autocast(), self.calling("loss"):
                output = method.loss(model, batch, attacked)
                self._expect("loss", output, StepOutput)
                if not isinstance(output.loss, Tensor) or output.loss.shape != ():
                    raise HookError(f"loss returned {_shown(output.loss)} where a scalar tensor is due")
                if not output.loss.requires_grad:
                    raise HookError("loss returned a loss without gradient: it was detached from the model")
            output.loss.backward()  # type: ignore[no-untyped-call]
            self.gradients = [value.grad for value in model.parameters() if value.grad is not None]
            return output

        with self.calling("step"):
            output = method.step(closure)
            self._expect("step", output, StepOutput)
        step = Step(batch, original, attacked, output)
        self.inspect(self, step)
        with self.calling("statistics"):
            statistics = method.statistics(batch, attacked, output)
            self.record.add(batch.y, statistics)
        return step

    def attack(self, drawn: Batch) -> tuple[Batch, Tensor, AttackOutput]:
        """Augment and attack a batch; returns the batch, a copy of its images, and the attack's output."""
        self.model.train()
        with self._autocast():
            with self.calling("augment"):
                batch = self.method.augment(drawn)
                self._expect("augment", batch, Batch)
            original = batch.x.clone()
            with self.calling("attack"):
                attacked = self.method.attack(self.model, batch)
                self._expect("attack", attacked, AttackOutput)
        return batch, original, attacked

    @contextmanager
    def calling(self, hook: str) -> Iterator[None]:
        """Name the hook that runs inside the block; its exceptions become HookError with the file and line."""
        outer, self.watch.hook = self.watch.hook, hook
        try:
            yield
        except HookError:
            raise
        except Exception as error:
            frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
            reason = " ".join(str(error).split())[:200]
            raise HookError(f"{hook} raised {type(error).__name__}: {reason} ({locate(frames[1:])})") from error
        finally:
            self.watch.hook = outer

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.context.recipe.precision == "bf16")

    def _expect(self, hook: str, value: object, kind: type) -> None:
        if not isinstance(value, kind):
            raise HookError(f"{hook} returned {_shown(value)} where a {kind.__name__} is due")

    def _context(self, counts: Sequence[int], batch_size: int, precision: str) -> Context:
        own: dict[str, Any] = {}
        for part in (self.method, *self.method.policies):
            own |= part.own_recipe
        unknown = sorted(own.keys() - Recipe.model_fields.keys())
        if unknown:
            raise HookError(f"own_recipe sets {', '.join(unknown)}, which no recipe has")
        needs = self.method.required
        mini = {"epochs": EPOCHS, "attack_steps": 3, "batch_size": batch_size, "precision": precision}
        recipe = Recipe.model_validate({**Recipe().model_dump(), **own, **mini})
        return Context(
            model=self.model,
            num_classes=self.classes,
            class_counts=torch.tensor(counts),
            device=torch.device("cpu"),
            threat=ThreatSection(eps=0.1),
            recipe=recipe,
            seed=0,
            epochs=EPOCHS,
            train_size=sum(counts) + OFFSET,
            optimizer=torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4),
            teacher=_teacher(self.classes, 1) if "teacher" in needs else None,
            natural_teacher=_teacher(self.classes, 2) if "natural_teacher" in needs else None,
            method_split=_images([2] * self.classes, seed=1) if "method_split" in needs else None,
            training=lambda: self.batches,
        )


def _parts(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.x, batch.y, batch.index


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _network(classes: int, width: int = 8) -> nn.Sequential:
    channels, height, side = SHAPE
    features = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
    head = nn.Linear(width * height * side // 4, classes)
    return nn.Sequential(features, nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), head)


def _teacher(classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _network(classes, width=12).eval().requires_grad_(False)


def _images(counts: Sequence[int], seed: int) -> Batch:
    """Noisy copies of one random image per class, with pixels at both ends of [0,1]."""
    random = torch.Generator().manual_seed(seed)
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    prototypes = torch.rand(len(counts), *SHAPE, generator=random)
    x = prototypes[y] + 0.3 * torch.randn(len(y), *SHAPE, generator=random)
    return Batch(x.clamp(0, 1), y, torch.arange(len(y)) + OFFSET)


def _batches(counts: Sequence[int], size: int, order: Order) -> list[Batch]:
    data = _images(counts, seed=0)
    rows = torch.arange(len(data.y))
    if order == "shuffled":
        rows = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return [Batch(data.x[part], data.y[part], data.index[part]) for part in torch.split(rows, size)]
