"""Does a method keep the contract? Every hook is driven on generated data, and each breach is one line."""

from __future__ import annotations

from fairbench.authoring.check import HookFinding, check_method

__all__ = ["HookFinding", "check_method"]
