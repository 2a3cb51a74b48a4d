"""The images that BatchNorm sees in a step: each method's passes in train mode, in the order of its script."""

from __future__ import annotations

import pytest
import torch

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.method.composition import resolve_method

STEPS = 10
ATTACK = ["attack"] * STEPS
# The share of clean images in the running statistics that follows from a momentum of 0.1, to two digits.
SCRIPTS = [
    ("sat", 0, "adv", 0.0),
    ("sat_train_mode", 0, "attack adv clean", 0.14),
    ("cfa_sat", 0, "attack adv clean", 0.14),
    ("sat_awp", 0, "attack adv adv clean", 0.13),
    ("trades", 0, "clean adv clean", 0.67),
    ("wat", 0, "clean adv", 0.47),
    ("mart", 0, "clean adv", 0.47),
    ("dafa", 0, "adv clean", 0.53),
    ("cfa_trades", 0, "clean adv clean clean", 0.76),
    ("trades_awp", 1, "adv clean clean", 0.70),
    ("rslad", 0, "adv clean", 0.53),
    ("absld", 0, "adv clean", 0.53),
    ("fair_rslad", 0, "adv clean", 0.53),
    ("faal", 0, "adv clean", 0.53),
    ("faal_trades", 0, "adv clean", 0.53),
    ("ard", 0, "attack adv clean", 0.14),
    ("fair_ard", 0, "attack adv clean", 0.14),
    ("iad", 0, "attack adv adv clean", 0.13),
    ("iad", 1, "attack adv adv clean clean", 0.25),
    ("fair_iad", 0, "attack adv clean adv", 0.12),
    ("fair_iad", 1, "attack adv clean adv", 0.12),
    ("fair_iad_released", 1, "attack adv clean adv", 0.12),
    ("iad2", 0, "attack adv", 0.0),
    ("iad2", 1, "attack adv clean", 0.14),
    ("ham", 1, "adv", 0.0),
]


def _passes(name: str, epoch: int) -> list[str]:
    """The inputs of the network in train mode in one step: "attack" for iterates, "adv" and "clean"."""
    rehearsal, shown = Rehearsal(resolve_method(name)), []
    context = rehearsal.context
    context.recipe = context.recipe.model_copy(update={"attack_steps": STEPS})
    context.epoch = epoch
    rehearsal.begin()

    def note(module: torch.nn.Module, images: tuple[torch.Tensor, ...]) -> None:
        if module.training:
            shown.append(images[0].detach().clone())

    rehearsal.model.register_forward_pre_hook(note)
    step = rehearsal.step(rehearsal.batches[0])
    kinds = {"clean": step.original, "adv": step.attacked.x_adv}
    return [next((kind for kind, x in kinds.items() if torch.equal(images, x)), "attack") for images in shown]


@pytest.mark.parametrize(("name", "epoch", "order", "clean_share"), SCRIPTS)
def test_batchnorm_sees_what_it_sees_in_the_script(name: str, epoch: int, order: str, clean_share: float):
    expected = [kind for word in order.split() for kind in (ATTACK if word == "attack" else [word])]
    passes = _passes(name, epoch)
    if name.endswith("_awp"):  # the pass for the direction leaves no statistics
        own = [kind for kind in expected if kind != "attack"]
        assert passes == [*expected, *own]
    else:
        assert passes == expected
    weights = [0.1 * 0.9**age for age in range(len(expected))][::-1]
    clean = sum(weight for weight, kind in zip(weights, expected, strict=True) if kind == "clean")
    assert clean / sum(weights) == pytest.approx(clean_share, abs=0.005)


def test_passes_that_are_repeated_change_the_statistics_and_nothing_else():
    often, once = (
        Rehearsal(resolve_method("trades", {"trades.pass_order": order})) for order in ("clean-adv-clean", "clean-adv")
    )
    for rehearsal in (often, once):
        rehearsal.begin()
        rehearsal.step(rehearsal.batches[0])
    for ours, theirs in zip(often.model.parameters(), once.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(often.model[1].running_mean, once.model[1].running_mean)
    assert (int(often.model[1].num_batches_tracked), int(once.model[1].num_batches_tracked)) == (3, 2)
