"""The regression gate: a test whether a candidate is less robust than a baseline."""

from fairbench.gate.checks import METRICS, POWER, Check
from fairbench.gate.decision import Outcome, check, check_model
from fairbench.gate.flags_and_costs import Finding

__all__ = ["METRICS", "POWER", "Check", "Finding", "Outcome", "check", "check_model"]
