"""Passes through a copy, which hooks on the model itself do not see."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

__all__ = ["Counted"]


class Counted(nn.Module):
    """Counts the images that pass through it in `forwards` and `backwards`, and tells `listener` of them."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = self.backwards = 0
        self.listener: Callable[[int, int], None] | None = None

    def note(self, logits: Tensor) -> Tensor:
        """Count a forward pass, and the backward pass when it happens; returns the logits."""
        images = len(logits)
        self.passed(images, 0)
        if logits.requires_grad:
            logits.register_hook(lambda _: self.passed(0, images))  # type: ignore[no-untyped-call]
        return logits

    def passed(self, forwards: int, backwards: int) -> None:
        """Count images that passed."""
        self.forwards += forwards
        self.backwards += backwards
        if self.listener is not None:
            self.listener(forwards, backwards)
