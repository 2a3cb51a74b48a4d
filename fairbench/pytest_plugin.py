"""The gate as a pytest fixture: `def test_fairness(fairbench_gate): fairbench_gate(model, dataset, baseline=...)`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from fairbench.gate.decision import Outcome

__all__ = ["Gate", "fairbench_gate"]


class Gate(Protocol):
    """The type of the fixture, which evaluates a model and fails the test on a regression from a baseline."""

    def __call__(
        self, model: Any, dataset: Any, *, baseline: str | Path, require_mde: float | None = None, **options: Any
    ) -> Outcome:
        """Return the outcome; options are those of `fairbench.gate.check_model`, such as max_drop and metric."""


@pytest.fixture(scope="session")
def fairbench_gate() -> Gate:
    """Fail a test if a model is less robust than a baseline: `fairbench_gate(model, dataset, baseline=PATH)`.

    The worst class, the average and every class are checked unless `metric` selects some. The baseline is a leaderboard
    CSV, a run folder, or a folder that `fairbench evaluate --out` wrote. A test also fails if the two cannot be
    compared, and if no check could fail.
    """
    return _gate


def _gate(
    model: Any, dataset: Any, *, baseline: str | Path, require_mde: float | None = None, **options: Any
) -> Outcome:
    __tracebackhide__ = True
    from fairbench.errors import FairbenchError
    from fairbench.gate.decision import check_model
    from fairbench.report.text.gate import gate_table

    try:
        outcome = check_model(model, dataset, baseline, **options)
        if not outcome.passed:
            pytest.fail(gate_table(outcome), pytrace=False)
        if require_mde is not None:
            outcome.require_detectable(require_mde)
        outcome.require_decidable()
    except FairbenchError as error:
        raise pytest.fail.Exception(f"fairness gate: no verdict: {error}", pytrace=False) from None
    return outcome
