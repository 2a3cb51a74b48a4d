"""Checkpoints as the gate compares them, with counted images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fairbench.gate.entry import Entry

IMAGES = 1000


BEFORE = (450, 700, 800)


def entry(right=BEFORE, *, images: int = IMAGES, lost=0, method="sat", seed="0", **fields) -> Entry:
    """A checkpoint right on this many images of each class: the first ones, but for the `lost` first of all."""
    first = np.broadcast_to(lost, len(right))
    labels = np.repeat(np.arange(len(right)), images)
    position = np.arange(len(labels)) % images
    hits = (position >= first[labels]) & (position < (first + right)[labels])
    known = {
        "suite": "tiny",
        "protocol": "a1",
        "threat": ("Linf", 0.1),
        "data": "d",
        "class_names": tuple("abcdefghij"[: len(right)]),
        "labels": labels,
        "hits": hits,
    }
    counts = np.full(len(right), images)
    return Entry(np.array(right), counts, ("clean",), method, seed, **{**known, **fields})


def blind(one: Entry) -> Entry:
    """The same as a CSV alone knows it."""
    return replace(one, labels=None, hits=None, class_names=(), threat=None)


def after(worst: int = 0, others: int = 0, **fields) -> Entry:
    """A candidate that has lost these many images of its classes in balance, of 7 % that changed or more."""
    drops = np.array([worst, others, others])
    return entry(np.array(BEFORE) - drops, lost=25 + np.maximum(drops, 0), **fields)
