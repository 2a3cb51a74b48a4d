"""The name under which tests written by earlier versions of `fairbench new-method` import the conformance check."""

from __future__ import annotations

from fairbench.authoring.check import Finding, check

__all__ = ["Finding", "check"]
