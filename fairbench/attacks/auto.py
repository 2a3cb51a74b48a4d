"""AutoAttack by pyautoattack, its authors' code and settings, without its printing, warnings and reseeding of torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal
from unittest.mock import patch

import torch
from pyautoattack import AutoAttack  # type: ignore[import-untyped]
from pyautoattack import autoattack as reference
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from fairbench.attacks.attack import Note
from fairbench.attacks.gradient import logits_and_gradient
from fairbench.attacks.losses import ce
from fairbench.attacks.pgd import Steps
from fairbench.attacks.projections import AnyNorm
from fairbench.attacks.random import ImageRNG
from fairbench.attacks.ticking import tick
from fairbench.errors import InvalidInput, UnknownName
from fairbench.registration import register_attack

__all__ = ["autoattack", "components"]

COMPONENTS = ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")

_GRID = 5


def _known(attacks: str) -> str:
    for name in attacks.split("+") if attacks else ():
        if name not in COMPONENTS:
            raise UnknownName("component of AutoAttack", name, COMPONENTS)
    return attacks


Components = Annotated[str, AfterValidator(_known)]


@register_attack("autoattack", summary="AutoAttack through pyautoattack, version=standard by default", whole_set=True)
def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: AnyNorm = "Linf",
    rng: ImageRNG,
    version: Literal["standard", "plus", "rand"] = "standard",
    attacks: Components = "",
    steps: Steps = 100,
    queries: Annotated[int, Field(ge=1)] = 5000,
    batch_size: Annotated[int, Field(ge=1)] = 250,
    note: Note = lambda component, broken: None,
) -> Tensor:
    """Return adversarial images like x float32 [B,C,H,W]; images that no component broke are returned unchanged.

    `attacks` selects components, joined by `+` (`autoattack:attacks=apgd-ce+square`), with the settings of `version`;
    `steps` is the budget of each gradient attack, `queries` that of Square. Random numbers are seeded once per batch of
    `batch_size`, so that results depend on the whole set of images and its order. Targeted components try min(9, C - 1)
    classes, in L1 APGD at most 5. Below four classes there is no targeted DLR loss, and apgd-dlr replaces it; below
    three classes neither runs. Square in L2 and L1 needs images of at least 5 x 5. `note` is told which component broke
    which images, "clean" first. Raises InvalidInput for logits that are not finite, and if none of the requested
    components can run. Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", ICML 2020.
    """
    if eps == 0:
        return x
    x = x.contiguous()  # images and gradients are viewed as flat
    with torch.no_grad():
        num_classes = model(x[:1]).shape[1]
    if attacks != "square":
        logits_and_gradient(model, x[:1], ce, y[:1])  # raises where there is none, which pyautoattack would not see
    passes = _Passes(len(x))

    def ended(component: str, broken: Tensor) -> None:
        note(component, broken)
        passes.end(len(broken))

    with _unnoticed(x.device), _overheard(ended):
        predict = _predictor(model, passes)
        ensemble = AutoAttack(predict, norm=norm, eps=eps, seed=rng.seed, device=x.device, version=version)
        ensemble.verbose = False
        wanted = components(attacks.split("+") if attacks else ensemble.attacks_to_run, num_classes)
        ensemble.attacks_to_run = _laid_out(wanted, min(x.shape[2:]), norm)
        ensemble.square.n_queries = queries
        _shorten(ensemble, steps)
        passes.plan(ensemble.attacks_to_run, steps, queries, num_classes)
        for targeted in (ensemble.apgd_targeted, ensemble.fab):
            targeted.n_target_classes = min(targeted.n_target_classes, num_classes - 1)
        x_adv: Tensor = ensemble.run_standard_evaluation(x, y, batch_size=batch_size)[0]
    return x_adv


def components(wanted: list[str], num_classes: int) -> list[str]:
    """Return the components that can attack a model with `num_classes` logits, in order and without duplicates."""
    if num_classes < 4:
        wanted = ["apgd-dlr" if name == "apgd-t" else name for name in wanted]
    if num_classes < 3:
        wanted = [name for name in wanted if name != "apgd-dlr"]
    if not wanted:
        raise InvalidInput(f"no component of AutoAttack that was asked for runs on {num_classes} classes")
    return list(dict.fromkeys(wanted))


def _laid_out(wanted: list[str], side: int, norm: AnyNorm) -> list[str]:
    """Leave out Square if its start, a grid of `_GRID` by `_GRID` tiles, is larger than the image."""
    left = wanted if norm == "Linf" or side >= _GRID else [name for name in wanted if name != "square"]
    if not left:
        raise InvalidInput(f"Square in {norm} needs images of at least {_GRID} x {_GRID} pixels")
    return left


def _shorten(ensemble: AutoAttack, steps: int) -> None:
    """Set the number of steps, and the checkpoints that APGD derives from it when it is built."""
    ensemble.fab.n_iter = steps
    for apgd in (ensemble.apgd, ensemble.apgd_targeted):
        apgd.n_iter = apgd.n_iter_orig = steps
        apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (max(steps * share // 100, 1) for share in (22, 6, 3))


class _Passes:
    """The completed share of AutoAttack, from the images passed through the model; a gradient counts as two more
    passes.

    Each component is expected to take the same work for every image that is still unbroken.
    """

    def __init__(self, images: int) -> None:
        self.standing, self.used, self.done, self.share = images, 0.0, 0.0, 0.0
        self.costs: list[float] = []

    def plan(self, wanted: list[str], steps: int, queries: int, num_classes: int) -> None:
        targets = min(9, num_classes - 1)
        gradients = {"apgd-t": targets, "fab-t": 1.5 * targets, "fab": 1.5}
        known = {"square": float(queries)} | {name: 3.0 * steps * times for name, times in gradients.items()}
        self.costs = [0.0, *(known.get(name, 3.0 * steps) for name in wanted)]  # the clean images come first

    def count(self, images: int) -> None:
        self.used += images * (3 if torch.is_grad_enabled() else 1)
        self._tell()

    def end(self, broken: int) -> None:
        self.done += self.costs[0] * self.standing if self.costs else 0.0
        self.standing, self.used, self.costs = self.standing - broken, 0.0, self.costs[1:]
        self._tell()

    def _tell(self) -> None:
        left = [cost * self.standing for cost in self.costs]
        done = self.done + min(self.used, left[0] if left else 0.0)
        self.share = max(self.share, done / max(self.done + sum(left), 1.0))
        tick(min(self.share, 1.0))


def _predictor(model: nn.Module, passes: _Passes) -> Callable[[Tensor], Tensor]:
    """Wrap a model for code that asserts, without a message, that nothing is NaN; count its passes."""

    def predict(x: Tensor) -> Tensor:
        logits: Tensor = model(x)
        passes.count(len(x))
        if not logits.isfinite().all():
            raise InvalidInput("the model's logits are not finite")
        return logits

    return predict


@contextmanager
def _overheard(note: Note) -> Iterator[None]:
    """Tell `note` which component broke which images, from the state that pyautoattack keeps for resuming."""

    class State(reference.EvaluationState):  # type: ignore[misc]
        standing: Tensor | None = None

        def tell(self, component: str, flags: Tensor) -> None:
            fallen = ~flags if self.standing is None else self.standing & ~flags
            self.standing = flags.clone()
            note(component, fallen.nonzero().squeeze(1))

        @property
        def clean_accuracy(self) -> float:
            return float(self._clean_accuracy)

        @clean_accuracy.setter
        def clean_accuracy(self, accuracy: float) -> None:
            self._clean_accuracy = accuracy
            self.tell("clean", self.robust_flags)

        def add_run_attack(self, attack: str) -> None:
            super().add_run_attack(attack)
            self.tell(attack, self.robust_flags)

    with patch.object(reference, "EvaluationState", State):
        yield


@contextmanager
def _unnoticed(device: torch.device) -> Iterator[None]:
    """Keep pyautoattack from logging, and from changing torch's global seed and Python's trace function.

    Its check for dynamic defenses logs what it finds and nothing else. It replaces the trace function, which ends a
    measurement of coverage or a debugger's session.
    """
    logger = logging.getLogger("auto-attack")
    disabled, logger.disabled = logger.disabled, True
    unchecked = patch.object(reference.checks, "check_dynamic", lambda *_, **__: None)
    try:
        with unchecked, torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        logger.disabled = disabled
