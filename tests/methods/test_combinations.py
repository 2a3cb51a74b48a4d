"""ABSLD's temperatures with the weights and margins of other papers: compositions that no paper reports."""

from __future__ import annotations

import pytest

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.method.composition import resolve_method
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite

REWEIGHTED = ("fair_ard_weights", "frl_weights", "wat_weights")
REMARGINED = ("cfa_margins", "dafa_margins")


@pytest.mark.parametrize("policy", [*REWEIGHTED, *REMARGINED])
def test_both_policies_supply_their_vectors(policy):
    rehearsal = Rehearsal(resolve_method(f"rslad+absld_temperatures+{policy}"))
    rehearsal.epoch()
    vectors = {key for part in rehearsal.method.policies for key in part.vectors()}
    assert {"temperature_adv", "temperature_clean"} < vectors
    assert vectors & ({"margin"} if policy in REMARGINED else {"weight", "weight_adv", "weight_clean"})


def test_they_share_a_suite_with_the_ablations():
    planned = {spec.method.name for spec in plan(load_suite("digits-ablations"), seeds=[0])}
    assert planned >= {f"rslad+absld_temperatures+{policy}" for policy in (*REWEIGHTED, *REMARGINED)}
    assert planned >= {"absld_one_set", "absld_random", "absld_self", "class_label_smoothing"}
