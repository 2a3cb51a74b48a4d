"""ABSLD with one constant changed at a time, designed by this project for the suite `digits-sensitivity`.

In 60 epochs the default temperature rate is 0.5 (`scaled_rate`), the bounds are 0.5 and 5, and the clean term has a
sixth of the loss. Every registration is written out, because listings read them from the source without running it.
"""

from __future__ import annotations

from fairbench import register_method

__all__: list[str] = []

CITATION = (
    "Ablation of Zhao et al., Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation, "
    "NeurIPS 2024, arXiv 2312.05508"
)
OURS = "ablation"

register_method(
    "absld_rate_fifth",
    base="rslad",
    policies=["absld_temperatures"],
    options={"absld_temperatures.temperature_rate": 0.1},
    summary="ABSLD with a fifth of the temperature rate of 60 epochs",
    citation=CITATION,
    provenance=OURS,
)
register_method(
    "absld_rate_half",
    base="rslad",
    policies=["absld_temperatures"],
    options={"absld_temperatures.temperature_rate": 0.25},
    summary="ABSLD with half the temperature rate of 60 epochs",
    citation=CITATION,
    provenance=OURS,
)
register_method(
    "absld_rate_double",
    base="rslad",
    policies=["absld_temperatures"],
    options={"absld_temperatures.temperature_rate": 1.0},
    summary="ABSLD with twice the temperature rate of 60 epochs",
    citation=CITATION,
    provenance=OURS,
)
register_method(
    "absld_rate_constant",
    base="rslad",
    policies=["absld_temperatures"],
    options={"absld_temperatures.rate_decay": 1.0},
    summary="ABSLD with a temperature rate that never drops",
    citation=CITATION,
    provenance=OURS,
)
register_method(
    "absld_bounds_narrow",
    base="rslad",
    policies=["absld_temperatures"],
    options={"absld_temperatures.temperature_low": 0.8, "absld_temperatures.temperature_high": 1.25},
    summary="ABSLD with temperatures between 0.8 and 1.25",
    citation=CITATION,
    provenance=OURS,
)
register_method(
    "absld_bounds_wide",
    base="rslad",
    policies=["absld_temperatures"],
    options={"absld_temperatures.temperature_low": 0.25, "absld_temperatures.temperature_high": 10.0},
    summary="ABSLD with temperatures between 0.25 and 10",
    citation=CITATION,
    provenance=OURS,
)
register_method(
    "absld_clean_none",
    base="rslad",
    policies=["absld_temperatures"],
    options={"rslad.clean_share": 0.0},
    summary="ABSLD with no clean term",
    citation=CITATION,
    provenance=OURS,
)
register_method(
    "absld_clean_third",
    base="rslad",
    policies=["absld_temperatures"],
    options={"rslad.clean_share": 0.3333333333333333},
    summary="ABSLD with a third of the loss on clean images",
    citation=CITATION,
    provenance=OURS,
)
register_method(
    "absld_clean_half",
    base="rslad",
    policies=["absld_temperatures"],
    options={"rslad.clean_share": 0.5},
    summary="ABSLD with half of the loss on clean images",
    citation=CITATION,
    provenance=OURS,
)
