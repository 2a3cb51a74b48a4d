"""Attacks: names with arguments that resolve to functions from images to adversarial images."""

from __future__ import annotations

from fairbench.attacks.attack import Attack, Ball, Craft, Threat, resolve
from fairbench.attacks.auto import autoattack
from fairbench.attacks.gradient import frozen
from fairbench.attacks.pgd import cw, inner_maximisation, pgd
from fairbench.attacks.random import ImageRNG
from fairbench.attacks.single_step import clean, fgsm

__all__ = [
    "Attack",
    "Ball",
    "Craft",
    "ImageRNG",
    "Threat",
    "autoattack",
    "clean",
    "cw",
    "fgsm",
    "frozen",
    "inner_maximisation",
    "pgd",
    "resolve",
]
