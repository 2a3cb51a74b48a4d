"""Training one run: the loop, its step, selection on held-out data, resume, and what makes it fast."""

from fairbench.train.loop import TrainingProgress, learning_rate, train
from fairbench.train.splits import Splits, divide

__all__ = ["Splits", "TrainingProgress", "divide", "learning_rate", "train"]
