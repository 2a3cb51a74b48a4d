"""fairbench: a benchmark suite for robust fairness, class-wise accuracy of adversarially trained models.

A name is imported on first use, so that `import fairbench` and the listings of the command line import no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fairbench.version import __version__

if TYPE_CHECKING:
    from fairbench import plot as plot
    from fairbench.attacks import ImageRNG, frozen, inner_maximisation
    from fairbench.data.batch import Batch
    from fairbench.errors import FairbenchError, InvalidInput
    from fairbench.evaluation.evaluate import evaluate
    from fairbench.evaluation.report import Report
    from fairbench.evaluation.verdicts import Verdicts
    from fairbench.kernels import class_counts, class_sums
    from fairbench.leaderboard.board import load_leaderboard
    from fairbench.losses import HardLabels, SoftLabels, cross_entropy, kl_divergence, soften
    from fairbench.method.context import Context
    from fairbench.method.held_out import AttackedSplit, attacked_split, class_means
    from fairbench.method.method import Method
    from fairbench.method.policy import ClassPolicy
    from fairbench.method.record import AttackOutput, ClassRecord, StepOutput
    from fairbench.method.tunable import hyper
    from fairbench.registration import (
        register_attack,
        register_dataset,
        register_logger,
        register_loss,
        register_method,
        register_model,
        register_policy,
    )
    from fairbench.results.weights import load_model
    from fairbench.train.logger import Logger, Training

_HOMES = {
    "attacks": ("ImageRNG", "frozen", "inner_maximisation"),
    "data.batch": ("Batch",),
    "errors": ("FairbenchError", "InvalidInput"),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.report": ("Report",),
    "evaluation.verdicts": ("Verdicts",),
    "leaderboard.board": ("load_leaderboard",),
    "kernels": ("class_counts", "class_sums"),
    "losses": ("HardLabels", "SoftLabels", "cross_entropy", "kl_divergence", "soften"),
    "method.held_out": ("AttackedSplit", "attacked_split", "class_means"),
    "method.context": ("Context",),
    "method.method": ("Method",),
    "method.policy": ("ClassPolicy",),
    "method.record": ("AttackOutput", "ClassRecord", "StepOutput"),
    "method.tunable": ("hyper",),
    "registration": (
        "register_attack",
        "register_dataset",
        "register_logger",
        "register_loss",
        "register_method",
        "register_model",
        "register_policy",
    ),
    "results.weights": ("load_model",),
    "train.logger": ("Logger", "Training"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AttackOutput",
    "AttackedSplit",
    "Batch",
    "ClassPolicy",
    "ClassRecord",
    "Context",
    "FairbenchError",
    "HardLabels",
    "ImageRNG",
    "InvalidInput",
    "Logger",
    "Method",
    "Report",
    "SoftLabels",
    "StepOutput",
    "Training",
    "Verdicts",
    "__version__",
    "attacked_split",
    "class_counts",
    "class_means",
    "class_sums",
    "cross_entropy",
    "evaluate",
    "frozen",
    "hyper",
    "inner_maximisation",
    "kl_divergence",
    "load_leaderboard",
    "load_model",
    "register_attack",
    "register_dataset",
    "register_logger",
    "register_loss",
    "register_method",
    "register_model",
    "register_policy",
    "soften",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use; `fairbench.plot` is a module."""
    if name == "plot":
        return import_module("fairbench.plot")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fairbench' has no attribute {name!r}")
    value = getattr(import_module(f"fairbench.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
