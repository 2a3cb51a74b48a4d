"""fairbench: which classes does an adversarially trained classifier protect, and which does it betray?

Names are imported when they are first used, so that `import fairbench` and the command line's listings stay light.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fairbench.version import __version__

if TYPE_CHECKING:
    from fairbench import plot as plot
    from fairbench.attacks import ImageRNG, frozen, inner_maximisation
    from fairbench.errors import FairbenchError
    from fairbench.evaluate import Report, Verdicts, evaluate
    from fairbench.hyper import hyper
    from fairbench.leaderboard.board import load_leaderboard
    from fairbench.losses import cross_entropy, kl_divergence, soften
    from fairbench.method import AttackOutput, Batch, ClassPolicy, ClassRecord, Context, Method, StepOutput
    from fairbench.registry import (
        register_attack,
        register_dataset,
        register_loss,
        register_method,
        register_model,
        register_policy,
    )

_HOMES = {
    "attacks": ("ImageRNG", "frozen", "inner_maximisation"),
    "errors": ("FairbenchError",),
    "evaluate": ("Report", "Verdicts", "evaluate"),
    "hyper": ("hyper",),
    "leaderboard.board": ("load_leaderboard",),
    "losses": ("cross_entropy", "kl_divergence", "soften"),
    "method": ("AttackOutput", "Batch", "ClassPolicy", "ClassRecord", "Context", "Method", "StepOutput"),
    "registry": (
        "register_attack",
        "register_dataset",
        "register_loss",
        "register_method",
        "register_model",
        "register_policy",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AttackOutput",
    "Batch",
    "ClassPolicy",
    "ClassRecord",
    "Context",
    "FairbenchError",
    "ImageRNG",
    "Method",
    "Report",
    "StepOutput",
    "Verdicts",
    "__version__",
    "cross_entropy",
    "evaluate",
    "frozen",
    "hyper",
    "inner_maximisation",
    "kl_divergence",
    "load_leaderboard",
    "register_attack",
    "register_dataset",
    "register_loss",
    "register_method",
    "register_model",
    "register_policy",
    "soften",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use, and `fairbench.plot` as the module it is."""
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


class _Package(ModuleType):
    """A package whose public functions win over the modules of the same name (`evaluate`, `hyper`) they live in."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME_OF and isinstance(value, ModuleType):
            return  # the import system binds every imported submodule to its parent
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
