"""The verdicts on every image under every attack, batch by batch, from the plain model in float32."""

from __future__ import annotations

import operator
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from fairbench.attacks import Attack, ImageRNG, crafting_engine, remembered_copies
from fairbench.attacks.attack import check_fits
from fairbench.attacks.projections import distance, rounding
from fairbench.attacks.ticking import heard
from fairbench.copies import Engine
from fairbench.errors import FairbenchError, InvalidInput
from fairbench.evaluation.batches import BatchVerdicts, by_component, join, spread, subset
from fairbench.evaluation.edge import at_edge, logits
from fairbench.evaluation.journal import Journal
from fairbench.evaluation.pixels import Pixels, as_input, as_labels, as_tensor
from fairbench.evaluation.verdicts import Verdicts
from fairbench.evaluation.victim import held
from fairbench.plugins.source import own_files
from fairbench.suites.sections import BATCH_SIZE

__all__ = ["AttackProgress", "as_verdicts", "attack_verdicts", "checked", "engine_of", "first_look", "whole_number"]

AttackProgress = Callable[[str, int, int], None]

_FIRST_LOOK = 2
# The number of batches that an attack with a copy processes together on CUDA. The few images of one batch that stay
# unbroken do not keep a large device busy. A copy processes blocks of images, so that verdicts do not depend on the
# batch size.
_TOGETHER = 8
_PER_SECOND = 4


def attack_verdicts(
    model: nn.Module,
    images: Pixels,
    labels: ArrayLike,
    attacks: Sequence[Attack],
    *,
    batch_size: int = BATCH_SIZE,
    device: str | torch.device | None = None,
    seed: int = 0,
    engine: Engine | None = None,
    progress: AttackProgress | None = None,
    journals: Mapping[str, Journal] | None = None,
) -> Verdicts:
    """Run every attack on every image, and evaluate the plain model in float32 and eval mode on the adversarial images.

    Images and labels as for `evaluate`. `device` is the device of the evaluation, by default that of the model.
    `engine` crafts the adversarial images, by default the device's; every verdict is the plain model's. `progress` is
    called with the attack's text, the number of images done and their total. An attack whose text is in `journals`
    resumes after the last batch of its journal, and appends to it. An attack with `per_class` K runs on the first K
    images of every class, or on all images of a smaller class; its verdicts on the other images are OUTSIDE, -2. If a
    device runs out of memory, batches are halved, with a warning. The model is left unchanged. Raises InvalidInput for
    images outside [0,1], labels that are no class, a model that does not accept the images or whose logits are not
    finite, and for an attack that leaves its ball.
    """
    batch_size, seed = whole_number("batch_size", batch_size), whole_number("seed", seed)
    pixels, truth = checked(images, labels, attacks, batch_size)
    with held(model, device) as where, remembered_copies(engine):
        model, num_classes = first_look(model, pixels, truth, where)
        crafted_with = engine_of(model, pixels, attacks, where)
        together = _TOGETHER if where.type == "cuda" and crafted_with != "plain" else 1
        judge = _Judge(model, pixels, truth, where, seed, {False: batch_size, True: batch_size * together})
        found = {attack.text: judge.all(attack, (journals or {}).get(attack.text), progress) for attack in attacks}
    return as_verdicts(found, truth, num_classes, crafted_with)


def engine_of(model: nn.Module, pixels: Tensor, attacks: Sequence[Attack], device: torch.device) -> str:
    """Return the name of the engine that crafts images inside `remembered_copies`, as in `Verdicts.engine`."""
    if not any(attack.copied for attack in attacks):
        return "plain"
    always = any(attack.copied == "always" for attack in attacks)
    return crafting_engine(model, as_input(pixels[:_FIRST_LOOK], device), fast=True if always else None)


def whole_number(name: str, value: Any) -> int:
    """Return an argument of any kind of whole number as an int; raises InvalidInput for anything else."""
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidInput(f"{name} must be a whole number, not {value!r:.80}") from None


def checked(
    images: Pixels, labels: ArrayLike, attacks: Sequence[Attack], batch_size: int
) -> tuple[Tensor, NDArray[np.int64]]:
    """Return images [N,C,H,W] and labels int64 [N]; raises the errors of `attack_verdicts` about images and labels."""
    pixels, truth = as_tensor(images), as_labels(labels, len(images))
    if not attacks or not 1 <= batch_size < 2**31:
        raise InvalidInput("an evaluation needs at least one attack" if not attacks else f"batch_size is {batch_size}")
    for attack in attacks:
        if attack.threat is not None:
            check_fits(attack.threat, pixels[0].numel())
    return pixels, truth


def first_look(
    model: nn.Module, pixels: Tensor, truth: NDArray[np.int64], device: torch.device
) -> tuple[nn.Module, int]:
    """Return the result of `at_edge` for a held model; raises InvalidInput for labels beyond its classes."""
    model, num_classes = at_edge(model, as_input(pixels[:_FIRST_LOOK], device))
    if len(pixels) > _FIRST_LOOK:  # a program exported for a fixed batch size accepts no other
        with suppress(torch.OutOfMemoryError):  # a device with memory for two images can still evaluate
            logits(model, as_input(pixels[: _FIRST_LOOK + 1], device))
    if truth.max() >= num_classes:
        raise InvalidInput(f"label {truth.max()} at {truth.argmax()}: the model has logits for 0..{num_classes - 1}")
    return model, num_classes


def as_verdicts(
    found: Mapping[str, BatchVerdicts], truth: NDArray[np.int64], num_classes: int, engine: str = "plain"
) -> Verdicts:
    """Return the verdicts of every attack, by its text, on images with labels `truth` int64 [N]."""
    predicted = {text: np.array(whole.predicted, np.int64) for text, whole in found.items()}
    components = {
        text: {name: np.array(verdict, np.int64) for name, verdict in whole.components.items()}
        for text, whole in found.items()
        if whole.components
    }
    return Verdicts(truth, predicted, num_classes, components, engine)


@dataclass
class _Judge:
    """A model in evaluation mode, its images, and the number of images that fit on the device at once.

    `limits` holds that number for attacks without a copy and for those that have one.
    """

    model: nn.Module
    pixels: Tensor
    truth: NDArray[np.int64]
    device: torch.device
    seed: int
    limits: dict[bool, int]

    def all(self, attack: Attack, journal: Journal | None, progress: AttackProgress | None) -> BatchVerdicts:
        """Return the verdicts of one attack on all images, OUTSIDE for those outside its subset."""
        if attack.per_class is None:
            return self._each(attack, journal, progress)
        chosen = subset(self.truth, attack.per_class)
        part = replace(self, pixels=self.pixels[torch.from_numpy(chosen)], truth=self.truth[chosen])
        return spread(part._each(attack, journal, progress), chosen, len(self.truth))

    def _each(self, attack: Attack, journal: Journal | None, progress: AttackProgress | None) -> BatchVerdicts:
        batches = [] if journal is None else list(journal.batches)
        size, total = attack.batch_size or self.limits[bool(attack.copied)], len(self.truth)
        done = sum(len(batch.predicted) for batch in batches)
        while done < total:  # batch boundaries are those of an evaluation without interruption
            stop = min(done - done % size + size, total)
            with heard(_inside(attack.text, done, stop, total, progress)):
                batches.append(self._next(attack, done, stop))
            done += len(batches[-1].predicted)
            if journal is not None:
                journal.append(batches[-1])
            if progress is not None:
                progress(attack.text, done, total)
        return join(batches)

    def _next(self, attack: Attack, start: int, stop: int) -> BatchVerdicts:
        """Judge the images from `start` to `stop`, or as many of them as fit."""
        while True:
            count = stop - start if attack.batch_size else min(stop - start, self.limits[bool(attack.copied)])
            with suppress(torch.OutOfMemoryError):
                return self._batch(attack, start, start + count)
            if attack.batch_size or count == 1:
                raise FairbenchError(f"{attack.text}: {count} images at once are too many for {self.device}'s memory")
            self.limits.update({copied: min(limit, count // 2) for copied, limit in self.limits.items()})
            warnings.warn(f"out of memory with {count} images at once: continuing with {count // 2}", stacklevel=2)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _batch(self, attack: Attack, start: int, stop: int) -> BatchVerdicts:
        x, truth = as_input(self.pixels[start:stop], self.device), self.truth[start:stop]
        y, notes = torch.from_numpy(truth.copy()).to(self.device), []
        rng = ImageRNG(self.seed, torch.arange(start, stop, device=self.device))
        clean = x.clone()  # an attack that modifies its input must not move the centre of the ball
        try:
            if attack.ensemble is None:
                x_adv = attack.craft(self.model, clean, y, rng)
            else:
                x_adv = attack.ensemble(
                    self.model, clean, y, rng, lambda name, rows: notes.append((name, rows.cpu().numpy()))
                )
            _check_inside(attack, x, x_adv)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            logits(self.model, x.clone())  # raises InvalidInput if the cause is the model and not the attack
            if isinstance(error, FairbenchError) or not own_files(attack.parts):
                raise
            raise InvalidInput(f"{attack.text}: {type(error).__name__}: {error}") from error
        parts = [logits(self.model, part).argmax(1).cpu() for part in torch.split(x_adv, self.limits[False])]
        predicted = torch.cat(parts).numpy()
        return BatchVerdicts(predicted.tolist(), by_component(truth, predicted, notes))


def _inside(
    text: str, start: int, stop: int, total: int, progress: AttackProgress | None
) -> Callable[[float], None] | None:
    """Report the progress within a batch as a number of images, at most `_PER_SECOND` times a second."""
    if progress is None:
        return None
    last = time.monotonic()

    def hear(share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 1 / _PER_SECOND:
            last = now
            progress(text, start + int(share * (stop - start)), total)

    return hear


def _check_inside(attack: Attack, x: Tensor, x_adv: Tensor) -> None:
    """Raise InvalidInput for adversarial images outside the ball or [0,1]. It synchronises with the device once."""
    if not isinstance(x_adv, Tensor):
        raise InvalidInput(f"{attack.text}: returned {type(x_adv).__name__}, not a tensor of images")
    if x_adv.shape != x.shape:
        raise InvalidInput(f"{attack.text}: returned images of shape {list(x_adv.shape)} for {list(x.shape)}")
    inside = (x_adv >= 0).all() & (x_adv <= 1).all()
    if attack.threat is not None:
        away = distance(x_adv - x, attack.threat.norm)
        slack = 1e-6 + rounding(attack.threat.norm, x[0].numel())
        inside &= (away <= attack.threat.eps * (1 + 1e-5) + slack).all()
    if not inside:
        if x_adv.isnan().any():
            raise InvalidInput(f"{attack.text}: returned images that are NaN; the model's gradients may not be finite")
        raise InvalidInput(f"{attack.text}: returned images outside its ball or outside [0,1]")
