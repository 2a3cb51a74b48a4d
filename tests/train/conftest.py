from __future__ import annotations

from typing import Any

import pytest

from fairbench.run.plan import plan
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import load_suite


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test here uses one thread, as a worker does."""


@pytest.fixture
def spec_of(make_suite, tmp_path):
    """Return `spec_of(method, **overrides)`: one student's specification."""
    suite = load_suite(str(make_suite(tmp_path / "suite")))

    def spec_of(method: str = "sat", **overrides: Any) -> RunSpec:
        keys = {key.replace("__", "."): value for key, value in overrides.items()}
        return plan(suite, methods=[method], overrides=keys)[-1]

    return spec_of
