"""What an author of a plug-in calls: the check of a method's contract, the scaffold, and the catalogue of names."""

from __future__ import annotations

from fairbench.authoring.check import HookFinding, check_method

__all__ = ["HookFinding", "check_method"]
