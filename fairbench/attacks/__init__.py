"""Attacks: names with arguments that resolve to functions from images to adversarial images."""

from __future__ import annotations

from fairbench.attacks.apgd import apgd_ce, apgd_dlr, apgd_t
from fairbench.attacks.attack import Attack, Ball, Craft, Note, Threat, resolve
from fairbench.attacks.auto import autoattack
from fairbench.attacks.autoattack_fast import autoattack_fast
from fairbench.attacks.crafting import craft_by_rule, crafting_engine, crafting_model, remembered_copies
from fairbench.attacks.fab import fab_t
from fairbench.attacks.gradient import frozen
from fairbench.attacks.mim import mim
from fairbench.attacks.pgd import cw, inner_maximisation, pgd
from fairbench.attacks.random import ImageRNG
from fairbench.attacks.single_step import clean, fgsm
from fairbench.attacks.square import square
from fairbench.attacks.targeted import pgd_t, reached, targeted_flow

__all__ = [
    "Attack",
    "Ball",
    "Craft",
    "ImageRNG",
    "Note",
    "Threat",
    "apgd_ce",
    "apgd_dlr",
    "apgd_t",
    "autoattack",
    "autoattack_fast",
    "clean",
    "craft_by_rule",
    "crafting_engine",
    "crafting_model",
    "cw",
    "fab_t",
    "fgsm",
    "frozen",
    "inner_maximisation",
    "mim",
    "pgd",
    "pgd_t",
    "reached",
    "remembered_copies",
    "resolve",
    "square",
    "targeted_flow",
]
