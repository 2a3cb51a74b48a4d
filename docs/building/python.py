"""The reference of the Python interface, from the public names of `fairbench`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

import fairbench

__all__ = ["TOPICS", "page", "readable", "to_rst"]

TOPICS = {
    "Evaluate a model": ("evaluate", "Report", "Verdicts", "load_model", "load_leaderboard"),
    "Write a method": (
        "Method",
        "ClassPolicy",
        "hyper",
        "Context",
        "Batch",
        "AttackOutput",
        "StepOutput",
        "ClassRecord",
        "attacked_split",
        "AttackedSplit",
        "class_means",
    ),
    "Losses, labels and attacks in training": (
        "cross_entropy",
        "kl_divergence",
        "soften",
        "HardLabels",
        "SoftLabels",
        "inner_maximisation",
        "ImageRNG",
        "frozen",
        "class_counts",
        "class_sums",
    ),
    "Register": (
        "register_method",
        "register_policy",
        "register_attack",
        "register_loss",
        "register_dataset",
        "register_model",
        "register_logger",
    ),
    "Follow a training": ("Logger", "Training"),
    "Errors": ("FairbenchError", "InvalidInput"),
}
TITLE = """Python reference
================

``import fairbench`` makes these names available. A name is imported when it is first used, and torch with the first
name that needs it. :doc:`../python` introduces them by example.
"""


def page() -> str:
    """Return a page of autodoc directives, a section per topic, then `fairbench.gate` and `fairbench.plot`."""
    parts = [TITLE]
    for topic, names in TOPICS.items():
        parts.append(f"{topic}\n{'-' * len(topic)}\n")
        parts += [directive(name, getattr(fairbench, name)) for name in names]
    parts.append("Gate\n----\n\n.. automodule:: fairbench.gate\n   :members:\n")
    parts.append("Plot\n----\n\n.. automodule:: fairbench.plot\n   :members:\n")
    return "\n".join(parts)


def directive(name: str, value: Any) -> str:
    """Return the directive that documents a name."""
    if not inspect.isclass(value):
        kind = "function" if callable(value) else "data"
        return f".. auto{kind}:: fairbench.{name}\n"
    kind = "exception" if issubclass(value, BaseException) else "class"
    return f".. auto{kind}:: fairbench.{name}\n   :members:\n"


def readable(
    _app: Sphinx, what: str, _name: str, value: Any, _options: Any, signature: str | None, _returned: str | None
) -> tuple[str, str | None] | None:
    """Write a signature with its annotations as the source has them; autodoc spells out every alias in them."""
    if signature is None:
        return None
    found = inspect.signature(value)
    parameters = list(found.parameters.values())
    if what == "method" and parameters and parameters[0].name in ("self", "cls"):
        found = found.replace(parameters=parameters[1:])
    returned = found.return_annotation if isinstance(found.return_annotation, str) else None
    text = stringify_signature(found.replace(return_annotation=inspect.Signature.empty))
    return text.replace("<factory>", "..."), None if returned == "None" else returned


def to_rst(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Turn a docstring, plain text with code in backticks, into reStructuredText that says the same."""
    lines[:] = list(_escaped(lines))


def _escaped(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        parts = re.split(r"(`[^`]*`)", line)
        yield "".join(
            f"`{part}`" if part.startswith("`") else re.sub(r"([*|\\]|_(?!\w))", r"\\\1", part) for part in parts
        )
