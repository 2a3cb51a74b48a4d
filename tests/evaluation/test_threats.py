"""Norms and budgets of an evaluation, as users write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from odd_models import conv_net, labelled, verdicts_of

from fairbench import evaluate
from fairbench.attacks import Ball
from fairbench.errors import InvalidInput, UnknownName


@pytest.mark.parametrize("norm", [np.inf, float("inf"), "inf", "linf", "l_inf", "Linf"])
def test_norms_and_budgets_as_other_libraries_write_them(norm: Any) -> None:
    assert Ball(norm, "8/255") == Ball("Linf", 8 / 255)
    assert verdicts_of(conv_net(), ["fgsm"], norm=norm) == verdicts_of(conv_net(), ["fgsm"])


def test_l2_and_l1_are_norms_and_other_values_are_refused() -> None:
    assert Ball(2, np.float32(0.5)) == Ball("l2", 0.5) == Ball(2.0, torch.tensor(0.5))  # type: ignore[arg-type]
    assert Ball(1, 3).norm == "L1"  # type: ignore[arg-type]
    for norm in (0, 3, True, "L0", "", None, np.nan):
        with pytest.raises(UnknownName, match="unknown norm"):
            Ball(norm, 0.5)  # type: ignore[arg-type]
    for eps in ("8/0", "much", None, True, [1], "-1"):
        with pytest.raises(InvalidInput, match="eps is"):
            Ball("L2", eps)  # type: ignore[arg-type]


@pytest.mark.parametrize(("norm", "eps", "fits"), [("Linf", 8, 1.0), ("L2", 128, 6.0), ("L1", 3000, 36.0)])
def test_a_budget_in_grey_levels_is_refused_in_every_norm(norm: Any, eps: float, fits: float) -> None:
    for too_large in (eps, fits * 1.01):
        with pytest.raises(InvalidInput, match=f"eps {too_large:g} in {norm} reaches beyond every image.*/255"):
            evaluate(conv_net(), labelled(), attacks=["clean"], norm=norm, eps=too_large)
    assert evaluate(conv_net(), labelled(), attacks=["clean"], norm=norm, eps=fits).threat == (norm, fits)


@pytest.mark.parametrize("attack", ["apgd-ce-1", "apgd-t-2:targets=1", "square:queries=1"])
@pytest.mark.parametrize("eps", [0.1, 1.0])
def test_a_small_l1_ball_has_room_for_the_rounding_of_its_pixels(attack: str, eps: float) -> None:
    """In L1 the errors of 3072 pixels add up to more than 1e-5 of the radius."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 4))
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    report = evaluate(model, (images, np.arange(12) % 4), attacks=[attack], norm="L1", eps=eps, flags=False)
    assert report.threat == ("L1", eps)
