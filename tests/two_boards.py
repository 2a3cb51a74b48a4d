"""The boards of the site that the tests of pages build: a committed one, and a hand-made one with a hostile name."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAP = "<img src=x onerror=alert(1)>"
UNION = {"clean": [0.9, 0.8, 0.7], "union": [0.6, 0.5, 0.4]}


def scaled(factor: float) -> dict[str, list[float]]:
    """Class accuracies by attack, `UNION` times a factor."""
    return {attack: [round(factor * share, 4) for share in shares] for attack, shares in UNION.items()}
