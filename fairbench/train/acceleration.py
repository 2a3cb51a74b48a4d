"""Faster ways to run the steps of training.

On a CUDA device a whole step is replayed as one CUDA graph, or, where the method replaces state within an epoch, its
attack alone; the forward passes of large networks are compiled. The last, smaller batch of an epoch runs eagerly,
because padding would change BatchNorm's statistics and weights that are normalised over the batch. On a CPU the attack
runs on a copy of the network where it holds the network in eval mode; the copy receives the current weights before each
attack. The device, the precision and the size of the network decide the mode; timings do not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fairbench.attacks.crafting import rewritten
from fairbench.attacks.gradient import frozen
from fairbench.copies import Engine, Rewritten
from fairbench.cost import CostMeter
from fairbench.data.batch import Batch
from fairbench.errors import FairbenchError
from fairbench.method.method import Method
from fairbench.method.record import AttackOutput, ClassRecord
from fairbench.suites.sections import Precision
from fairbench.train.graph import Record, as_it_was, cuda_graph, cuda_graph_at_once
from fairbench.train.recorded_attack import RecordedAttack
from fairbench.train.recorded_step import RecordedStep, TakeStep
from fairbench.train.teacher import RememberingTeacher

__all__ = ["Accelerator", "AttackStep", "Mode", "compiled", "fastest_mode"]

# graph: the attack is a graph. step-graph: the whole step is one.
Mode = Literal["eager", "graph", "compiled-graph", "step-graph", "compiled-step-graph", "copy"]
AttackStep = Callable[[Batch, nn.Module], AttackOutput]

# Networks with at least this many parameters are compiled. The number is a choice, not a measurement: a run pays for
# the compilation once, and the training of a small network on a GPU is short.
COMPILED_FROM = 1_000_000
# The mode that replaces one that fails.
_NEXT: dict[Mode, Mode] = {
    "compiled-step-graph": "compiled-graph",
    "compiled-graph": "graph",
    "step-graph": "graph",
}
_COMPILED, _WHOLE = ("compiled-graph", "compiled-step-graph"), ("step-graph", "compiled-step-graph")


def fastest_mode(model: nn.Module, device: torch.device, precision: Precision) -> Mode:
    """The mode in which the steps of a training run fastest on a device; small networks are not worth compiling."""
    if precision == "float64":
        return "eager"
    if device.type == "cuda":
        size = sum(parameter.numel() for parameter in model.parameters())
        return "compiled-step-graph" if size >= COMPILED_FROM else "step-graph"
    return "copy" if device.type == "cpu" and precision == "float32" else "eager"


@contextmanager
def compiled(model: nn.Module, forward: Callable[..., Any] | None) -> Iterator[None]:
    """Let `model` run another forward function inside the block; hooks on the model still run in every pass."""
    if forward is None:
        yield
        return
    model.forward = forward
    try:
        yield
    finally:
        del model.forward  # uncovers the forward of the class


class Accelerator:
    """Runs a method's steps and attacks in one mode, which is stored in `mode`.

    `attack` is called with a batch and a network, and `size` is the number of images in a full batch. `engine` computes
    the copies of networks, None for the device's default. `record` makes the graph of an attack, `record_step` that of
    a step, without taking it; `backend` is a backend of torch.compile. The next simpler mode replaces one that fails,
    with one warning. Errors of the method itself are raised.
    """

    def __init__(
        self,
        attack: AttackStep,
        method: Method,
        cost: CostMeter,
        *,
        size: int,
        mode: Mode = "eager",
        engine: Engine | None = None,
        record: Record = cuda_graph,
        record_step: Record = cuda_graph_at_once,
        backend: str = "inductor",
    ) -> None:
        self._attack, self._method, self._cost, self._size = attack, method, cost, size
        self.model = method.context.model
        self.mode: Mode = mode
        self._engine, self._backend = engine, backend
        self._copy: Rewritten | None = None
        self._recorded_attack = RecordedAttack(method, cost, record)
        self._recorded_step = RecordedStep(method, cost, record_step)
        self._compiled: dict[nn.Module, Callable[..., Any]] = {}

    def step(self, step: TakeStep, batch: Batch, record: ClassRecord) -> Tensor:
        """Take a step on a batch as drawn, which calls `attack`; returns its loss."""
        if self.mode not in _WHOLE or len(batch.y) != self._size:
            return step(batch, record)
        try:
            return self._recorded_step(step, batch, record)
        except Exception as error:
            if isinstance(error, FairbenchError):
                raise
            self._give_up(error)
            return step(batch, record)

    def attack(self, batch: Batch) -> AttackOutput:
        """Run the attack on a batch; the result of a recorded attack is valid until the next call."""
        if len(batch.y) != self._size and self.mode != "copy":
            return self._plain(batch)
        if self.mode in _WHOLE:
            with self.forward(batch):
                return self._plain(batch)
        try:
            return self._run(batch)
        except Exception as error:
            if self.mode == "eager" or isinstance(error, FairbenchError):
                raise
            self._give_up(error)
            return self.attack(batch)

    @contextmanager
    def forward(self, batch: Batch) -> Iterator[None]:
        """Compile the forward passes of the model and its teachers inside the block if the mode compiles."""
        fits = self.mode in _COMPILED and len(batch.y) == self._size
        context = self._method.context
        networks = (self.model, context.teacher, context.natural_teacher) if fits else ()
        with ExitStack() as stack:
            for network in dict.fromkeys(networks):
                if network is not None and not isinstance(network, RememberingTeacher):
                    if network not in self._compiled:
                        self._compiled[network] = torch.compile(network.forward, dynamic=False, backend=self._backend)
                    stack.enter_context(compiled(network, partial(self._fast, network)))
            yield

    def _fast(self, network: nn.Module, *args: Any) -> Any:
        if self.mode in _COMPILED:
            try:
                return self._compiled[network](*args)
            except Exception as error:
                self._give_up(error, "step-graph" if self.mode in _WHOLE else "graph")
        return type(network).forward(network, *args)

    def _plain(self, batch: Batch) -> AttackOutput:
        return self._attack(batch, self.model)

    def _on_copy(self, batch: Batch) -> AttackOutput:
        if self._copy is None:
            self._make_copies(batch.x)
        if self._copy is None:
            self.mode = "eager"
            return self._plain(batch)
        copy, cost = self._copy, self._cost
        copy.load(self.model)
        copy.forwards = copy.backwards = 0
        output = self._attack(batch, copy)
        cost.forwards, cost.backwards = cost.forwards + copy.forwards, cost.backwards + copy.backwards
        return output

    def _make_copies(self, like: Tensor) -> None:
        """Copy the network if the attack holds it in eval mode, and every teacher, whose weights never change."""
        context = self._method.context
        if self._method.attack_mode == "eval":
            with as_it_was(self.model, self._cost), frozen(self.model):
                self._copy = rewritten(self.model, like, self._engine)
        for name in ("teacher", "natural_teacher"):
            teacher = getattr(context, name)
            if teacher is not None and not isinstance(teacher, RememberingTeacher):
                copy = rewritten(teacher, like, self._engine)
                setattr(context, name, teacher if copy is None else copy)

    def _run(self, batch: Batch) -> AttackOutput:
        if self.mode == "copy":
            return self._on_copy(batch)
        with self.forward(batch):
            if self.mode == "eager":
                return self._plain(batch)
            return self._recorded_attack(self._plain, batch)

    def _give_up(self, error: Exception, following: Mode | None = None) -> None:
        message = f"training goes on without {self.mode}: {_first_line(error)}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
        self.mode = following or _NEXT.get(self.mode, "eager")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
