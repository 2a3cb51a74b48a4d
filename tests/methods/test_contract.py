"""Every method of the package, and parts of methods with those of others, keep the contract of the hooks."""

from __future__ import annotations

import pytest

from fairbench import registry
from fairbench.authoring import check_method

METHODS = [name for name in registry.methods.names() if registry.methods.entry(name).module.startswith("fairbench.")]
COMPOSITIONS = {
    "absld": ("awp", "cfa_margins", "cfol_sampling", "dafa_margins", "dafa_weights", "fawa", "frl_margins"),
    "adaad": ("adv_temperatures",),
    "bat": ("awp", "cfa_margins", "fair_ard_weights"),
    "cfol": ("cfa_margins",),
    "codat": ("fair_ard_weights",),
    "csr": ("dafa_weights",),
    "faal": ("awp",),
    "faal_trades": ("cfa_margins",),
    "fair_tat_attacks": ("dafa_margins",),
    "ham": ("awp", "cfa_margins"),
    "mtard": ("one_set_temperatures",),
    "rslad+absld_temperatures": ("cfa_margins", "dafa_margins", "fair_ard_weights", "frl_weights", "wat_weights"),
    "sat": ("dafa_margins", "fawa", "wat_weights"),
    "sy_far": ("cfa_margins",),
    "trades": ("cfa_betas", "cfol_sampling", "trix_weights"),
}


@pytest.mark.parametrize(
    "name", [*METHODS, *(f"{base}+{policy}" for base, policies in COMPOSITIONS.items() for policy in policies)]
)
def test_it_keeps_the_contract(name):
    failed = {finding.check: finding.detail for finding in check_method(name) if not finding.passed}
    if name == "absld_clean_none":  # its clean term is off, so that the vectors of that term have no effect
        assert failed.pop("composition").startswith("reads names weight_clean, temperature_clean, which changes")
    assert failed == {}
