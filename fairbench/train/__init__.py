"""Training one run: the loop, its step, selection on held-out data, resume, and what makes it fast."""

from fairbench.train.loop import Progress, Splits, divide, learning_rate, train

__all__ = ["Progress", "Splits", "divide", "learning_rate", "train"]
