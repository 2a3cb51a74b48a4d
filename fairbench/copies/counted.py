"""Counting the passes through a copy, which hooks on the model itself do not see."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

__all__ = ["Counted"]


class Counted(nn.Module):
    """A module that counts images in `forwards` and `backwards` and reports them to `listener`."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = self.backwards = 0
        self.listener: Callable[[int, int], None] | None = None

    def note(self, logits: Tensor) -> Tensor:
        """Count a forward pass now and its backward pass when autograd runs it; return the logits."""
        images = len(logits)
        self.passed(images, 0)
        if logits.requires_grad:
            logits.register_hook(lambda _: self.passed(0, images))  # type: ignore[no-untyped-call]
        return logits

    def passed(self, forwards: int, backwards: int) -> None:
        """Count images of a forward and of a backward pass."""
        self.forwards += forwards
        self.backwards += backwards
        if self.listener is not None:
            self.listener(forwards, backwards)
