"""Every variant of `digits-sensitivity` differs from ABSLD in the constants that its name states."""

from __future__ import annotations

import pytest

from fairbench import registry
from fairbench.method.composition import build_method, resolve_method
from fairbench.suites.suite import load_suite

CHANGED = {
    "absld_rate_fifth": {"temperature_rate": 0.1},
    "absld_rate_half": {"temperature_rate": 0.25},
    "absld_rate_double": {"temperature_rate": 1.0},
    "absld_rate_constant": {"rate_decay": 1.0},
    "absld_bounds_narrow": {"temperature_low": 0.8, "temperature_high": 1.25},
    "absld_bounds_wide": {"temperature_low": 0.25, "temperature_high": 10.0},
    "absld_clean_none": {"clean_share": 0.0},
    "absld_clean_third": {"clean_share": 1 / 3},
    "absld_clean_half": {"clean_share": 0.5},
}


def settings(name: str) -> dict[str, object]:
    return {field: value for part in resolve_method(name).options.values() for field, value in part.items()}


@pytest.mark.parametrize("name", CHANGED)
def test_a_variant_changes_what_it_says_and_nothing_else(name):
    found, absld = settings(name), settings("absld")
    assert {field: value for field, value in found.items() if value != absld[field]} == CHANGED[name]
    assert resolve_method(name).policies == resolve_method("absld").policies
    build_method(resolve_method(name))
    assert registry.methods.details(name)["provenance"] == "ablation"


def test_the_suite_is_that_of_digits_and_changes_one_factor_at_a_time():
    suite, digits = load_suite("digits-sensitivity"), load_suite("digits")
    for setting in ("data", "model", "teacher", "recipe", "threat", "selection", "evaluation", "tuning", "quick"):
        assert getattr(suite, setting) == getattr(digits, setting)
    assert suite.tuned_on == "digits"
    assert set(suite.methods) == {"absld", "absld_self", *CHANGED}
    assert len(suite.methods) <= 12
    assert len(suite.seeds) == 3
    assert suite.inherits == {name: "absld" for name in suite.methods if name != "absld"}
