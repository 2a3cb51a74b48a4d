"""The regression gate: a baseline and a candidate, and whether worst-class robustness has dropped."""

from fairbench.gate.checks import METRICS, POWER, Check
from fairbench.gate.decision import Finding, Outcome, check, check_model

__all__ = ["METRICS", "POWER", "Check", "Finding", "Outcome", "check", "check_model"]
