"""A stand-in on any device for the recording of CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

Recorded = list[tuple[Tensor, Callable[[], None]]]


def rerun(runs: Sequence[Callable[[], Tensor]]) -> Recorded:
    """As `record_passes`, on any device: a replay runs the function and overwrites its first result."""

    def one(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        output = run().detach().clone()

        def replay() -> None:
            output.copy_(run().detach())

        return output, replay

    return [one(run) for run in runs]
