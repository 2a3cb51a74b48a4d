"""Callbacks of a training for experiment trackers, called after every epoch.

A logger observes a training and does not influence it: its settings are in no run id. A logger that fails is dropped
with a warning, and the training continues. `history.csv` is written in any case.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from fairbench import distributed, registry
from fairbench.errors import InvalidInput, Missing
from fairbench.suites.spec import RunSpec

__all__ = ["VARIABLE", "Logger", "Loggers", "Training", "check_loggers", "open_loggers", "training_of"]

# Names the loggers of all trainings that a command starts, one per line; worker processes and cluster nodes inherit it.
VARIABLE = "FAIRBENCH_LOG"


@dataclass(frozen=True)
class Training:
    """The training that a logger observes; `first_epoch` is above 0 if an earlier process trained the epochs before it.

    `settings` are the method's hyper-parameters and the recipe, JSON-ready.
    """

    suite: str
    method: str
    seed: int
    run_id: str
    class_names: tuple[str, ...]
    epochs: int
    first_epoch: int
    settings: Mapping[str, Any]


class Logger:
    """Callbacks that do nothing; a logger overrides those that it uses. Epochs count from 0."""

    def begin(self, training: Training) -> None:
        """Called once, before the first epoch."""

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Called after every epoch with `loss`, `lr` and the accuracies on the training images."""

    def class_state(self, epoch: int, vectors: Mapping[str, Sequence[float]]) -> None:
        """Called after every epoch of a method with class-wise state, such as temperatures or weights: one value a
        class.
        """

    def validation(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Called after an epoch whose checkpoint was scored, with `average`, `worst` and `score` on held-out images."""

    def end(self, finished: bool) -> None:
        """Called once, in any case; `finished` is false where the training stopped before its last epoch."""


class Loggers:
    """The loggers of one training, called one after the other."""

    def __init__(self, loggers: Sequence[Logger] = ()) -> None:
        self._loggers = list(loggers)

    @contextmanager
    def of(self, training: Training) -> Iterator[Loggers]:
        """Call `begin` on every logger, and `end` when the block is left."""
        finished = False
        self._call("begin", training)
        try:
            yield self
            finished = True
        finally:
            self._call("end", finished)

    def after(
        self,
        epoch: int,
        trained: Mapping[str, Any],
        selected: Mapping[str, float],
        state: Mapping[str, Sequence[float]],
    ) -> None:
        """Pass the history columns of an epoch to the loggers, by kind."""
        figures = {name: float(value) for name, value in trained.items() if name != "epoch"}
        self._call("epoch", epoch, figures)
        if state:
            self._call("class_state", epoch, dict(state))
        if selected:
            self._call("validation", epoch, dict(selected))

    def _call(self, name: str, *given: Any) -> None:
        for logger in list(self._loggers):
            try:
                getattr(logger, name)(*given)
            except Exception as error:  # an unreachable tracker must not end a training
                self._loggers.remove(logger)
                line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                warnings.warn(f"the training goes on without {type(logger).__name__}: {line}", stacklevel=3)


def training_of(spec: RunSpec, class_names: Sequence[str], first_epoch: int) -> Training:
    """Describe a run to its loggers, without the paths and the command that its spec holds."""
    return Training(
        suite=spec.suite,
        method=spec.label,
        seed=spec.seed,
        run_id=spec.run_id,
        class_names=tuple(class_names),
        epochs=spec.recipe.epochs,
        first_epoch=first_epoch,
        settings={"recipe": spec.recipe.model_dump(mode="json"), "method": spec.method.options, "model": spec.model},
    )


def check_loggers(texts: Sequence[str]) -> None:
    """Raise UnknownName or Missing, before anything runs, for a logger that is unknown or lacks its package.

    A text is `NAME` or `NAME:TARGET`; each logger defines its target, such as a folder, a project or an address.
    """
    for text in texts:
        if "\n" in text:
            raise InvalidInput(f"--log {text!r}: has more than one line")
        name = text.partition(":")[0]
        needed = registry.loggers.details(name).get("needs")
        if needed and find_spec(str(needed)) is None:
            raise Missing(f"--log {name} needs the package {needed}: pip install 'robust-fairbench[{name}]'")


def open_loggers(texts: Sequence[str] | None = None) -> list[Logger]:
    """Return a logger for each text, by default for those in the variable FAIRBENCH_LOG; none on ranks other than 0.

    A logger that cannot be created is left out with a warning.
    """
    if distributed.rank() > 0:
        return []
    found: list[Logger] = []
    for text in os.environ.get(VARIABLE, "").splitlines() if texts is None else texts:
        name, _, target = text.partition(":")
        try:
            make: Callable[[str], Logger] = registry.loggers.get(name)
            found.append(make(target))
        except Exception as error:  # an unreachable tracker must not end a training
            warnings.warn(f"the training goes on without --log {name}: {error}", stacklevel=2)
    return found
