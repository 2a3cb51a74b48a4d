"""Strategies that take something valid and break it."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

__all__ = ["bytes_near", "junk", "texts", "trees_near"]

NAMES = ["", ".", "..", "../x", "/etc/passwd", "a\0b", "x" * 300, "con", "NUL", "~", "-", "a b", "ä", "\n", "é" * 200]

texts = st.one_of(st.sampled_from(NAMES), st.text(max_size=30))
numbers = st.one_of(
    st.integers(-(10**20), 10**20), st.floats(), st.sampled_from([0, -1, 1, 2**31, 2**63, 1e308, 8 / 255])
)
junk = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)


def _paths(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(found for key, value in items for found in _paths(value, (*path, key)))]


@st.composite
def trees_near(draw: st.DrawFn, tree: Any) -> Any:
    """The tree with one to three of its nodes replaced, removed or joined by another."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_paths(tree)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return draw(junk)
            continue
        owner = tree
        for key in path[:-1]:
            owner = owner[key]
        what = draw(st.sampled_from(["replace", "remove", "join"]))
        if what == "replace":
            owner[path[-1]] = draw(junk)
        elif what == "remove":
            del owner[path[-1]]
        elif isinstance(owner, dict):
            owner[draw(texts)] = draw(junk)
        else:
            owner.append(draw(junk))
    return tree


@st.composite
def bytes_near(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes cut, with some of them changed, or with others put in; rarely other bytes altogether."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, max(0, len(changed) - 1)))
        what = draw(st.sampled_from(["flip", "cut", "insert", "drop"]))
        if what == "flip" and changed:
            changed[where] ^= draw(st.integers(1, 255))
        elif what == "cut":
            del changed[where:]
        elif what == "insert":
            changed[where:where] = draw(st.binary(min_size=1, max_size=9))
        else:
            del changed[where : where + draw(st.integers(1, 40))]
    return bytes(changed)
