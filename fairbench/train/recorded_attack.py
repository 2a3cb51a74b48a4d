"""All steps of a training attack as one CUDA graph, for methods whose whole step cannot be one."""

from __future__ import annotations

from collections.abc import Callable

from fairbench.cost import CostMeter
from fairbench.data.batch import Batch
from fairbench.method.method import Method
from fairbench.method.record import AttackOutput
from fairbench.train.graph import Record, as_it_was, held_by, unchanged

__all__ = ["RecordedAttack"]

# Least share of pixels in which a replayed graph and the eager attack agree: a gradient near zero may change its sign.
_AGREEMENT = 0.99


class RecordedAttack:
    """Runs the attacks of a method as replays of one graph, which is recorded anew in each epoch.

    The first replay of a recording is compared with the attack as written. Raises RuntimeError if a recording would not
    repeat the attack.
    """

    def __init__(self, method: Method, cost: CostMeter, record: Record) -> None:
        self._method, self._cost, self._record = method, cost, record
        self._replay: Callable[[Batch], AttackOutput] | None = None
        self._held: list[object] = []
        self._recorded_in = -1

    def __call__(self, attack: Callable[[Batch], AttackOutput], batch: Batch) -> AttackOutput:
        """Attack a full batch; the result is valid until the next call."""
        if not unchanged(self._held, held_by(self._method)):
            self._start(attack, batch)
        assert self._replay is not None
        return self._replay(batch)

    def _start(self, attack: Callable[[Batch], AttackOutput], batch: Batch) -> None:
        """Record the attack again if the method holds other tensors than those that the recorded attack reads."""
        epoch, model = self._method.context.epoch, self._method.context.model
        if epoch == self._recorded_in:
            raise RuntimeError("the method's state is replaced within an epoch, which a graph would not see")
        static = Batch(batch.x.clone(), batch.y.clone(), batch.index.clone())
        runs, passes = 0, (self._cost.forwards, self._cost.backwards)

        def run() -> AttackOutput:
            nonlocal runs
            runs += 1
            return attack(static)

        with as_it_was(model, self._cost):
            output, replay = self._record(run)
            passes_made = (self._cost.forwards - passes[0], self._cost.backwards - passes[1])
        each = (passes_made[0] // runs, passes_made[1] // runs)

        def replayed(batch: Batch) -> AttackOutput:
            for ours, theirs in ((static.x, batch.x), (static.y, batch.y), (static.index, batch.index)):
                ours.copy_(theirs)
            replay()
            self._cost.forwards += each[0]
            self._cost.backwards += each[1]
            return output

        with as_it_was(model, self._cost):
            wanted = attack(batch).x_adv
            same = (replayed(batch).x_adv - wanted).abs() < 1e-6
            agreement = float(same.float().mean())
        if agreement < _AGREEMENT:
            raise RuntimeError(f"only {agreement:.1%} of the pixels are those of the attack as written")
        self._replay, self._held, self._recorded_in = replayed, held_by(self._method), epoch
