"""What an author of a plug-in calls: the check of a method's contract, the scaffold, and the catalogue of names.

The check needs torch, which listings of names do not import: it is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairbench.authoring.check import HookFinding, check_method

__all__ = ["HookFinding", "check_method"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fairbench.authoring import check

    return getattr(check, name)
