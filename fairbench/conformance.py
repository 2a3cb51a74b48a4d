"""The name under which tests written by earlier versions of `fairbench new-method` import the conformance check."""

from __future__ import annotations

from fairbench.authoring.check import HookFinding as Finding
from fairbench.authoring.check import check_method as check

__all__ = ["Finding", "check"]
