"""Does a method keep the contract? Every hook is driven on generated data, and each breach is one line."""

from __future__ import annotations

from fairbench.authoring.check import Finding, check

__all__ = ["Finding", "check"]
