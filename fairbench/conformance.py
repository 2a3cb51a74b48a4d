"""The earlier name of the conformance check, which tests written by older versions of `fairbench new-method` import."""

from __future__ import annotations

from fairbench.authoring.check import HookFinding as Finding
from fairbench.authoring.check import check_method as check

__all__ = ["Finding", "check"]
