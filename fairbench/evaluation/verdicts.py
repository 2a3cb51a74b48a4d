"""The result of attacks on a model: a verdict on every image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fairbench.errors import InvalidInput, UnknownName
from fairbench.plugins.calls import parse_call
from fairbench.statistics import metrics

__all__ = ["UNION", "Flag", "UnknownAttack", "Verdicts"]

IntArray = NDArray[np.int64]

UNION = "union"


class UnknownAttack(UnknownName, KeyError):
    """A KeyError for an unknown attack, whose message names the nearest one."""

    __str__ = Exception.__str__  # KeyError would show the repr of its message


@dataclass(frozen=True)
class Flag:
    """The value of a sanity check, and whether it is a warning."""

    value: float
    red: bool


@dataclass(frozen=True, eq=False)
class Verdicts(Mapping[str, IntArray]):
    """The verdicts on every image under every attack, a mapping from an attack's text to int64 [N].

    An attack can be looked up by the name that was given to `evaluate`. "union" can be looked up, and is not iterated
    over.

    A verdict is the predicted class of a broken image, else the true class, `labels` int64 [N]. `predicted` is in
    protocol order. `components` holds, by the text of an ensemble, the verdicts of each component that ran, in order,
    -1 for images that an earlier component had broken. -2, in either, marks images outside the subset of an attack with
    `per_class`, which no figure counts. `engine` names the network that crafted the adversarial images: `plain` for the
    model itself, else its copy, `c`, `torch`, `tf32` or `bfloat16`.
    """

    labels: IntArray
    predicted: Mapping[str, IntArray]
    num_classes: int
    components: Mapping[str, Mapping[str, IntArray]] = field(default_factory=dict)
    engine: str = "plain"

    def __getitem__(self, attack: str) -> IntArray:
        return self.union() if attack == UNION else self.predicted[self.stored_as(attack)]

    def __contains__(self, attack: object) -> bool:
        return isinstance(attack, str) and super().__contains__(attack)

    def stored_as(self, attack: str) -> str:
        """Return the text under which an attack is stored, whatever the order and spelling of its arguments.

        `pgd-20:fast=true` and `pgd-20:fast=True` name one attack. Raises UnknownAttack, which is also a KeyError.
        """
        if attack in self.predicted:
            return attack
        by_call = {_canonical(text): text for text in self.predicted}
        if _canonical(attack) not in by_call:
            raise UnknownAttack("attack of this report", attack, [*self.predicted, UNION])
        return by_call[_canonical(attack)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.predicted)

    def __len__(self) -> int:
        return len(self.predicted)

    def union(self) -> IntArray:
        """Return int64 [N]: the class of the first break in protocol order, else the true class.

        Images that some attack did not see are -2.
        """
        return metrics.union(self.labels, self.predicted)

    def first_break(self) -> NDArray[np.str_]:
        """Return text [N]: the attack that broke each image first, in protocol order, empty if none did.

        If an ensemble broke the image, the text names the component too, as in `autoattack-fast#square`. Images that
        some attack did not see stay empty.
        """
        found, seen = np.full(len(self.labels), "", dtype=object), self.union() != metrics.OUTSIDE
        for attack, predicted in self.predicted.items():
            fresh = seen & (found == "") & (predicted != self.labels)
            found[fresh] = attack
            for name, verdict in self.components.get(attack, {}).items():
                found[fresh & (verdict != self.labels) & (verdict != -1)] = f"{attack}#{name}"
        return found.astype(np.str_)

    def summary(self, attack: str = UNION) -> metrics.Summary:
        """Return every figure under one attack, or under the union of all; raises UnknownName."""
        return metrics.summarise(self.labels, self[attack], self.num_classes)


def _canonical(text: str) -> str:
    """Write an attack's name as `Attack.text` does; a text that is no attack stays unchanged."""
    try:
        return str(parse_call(text))
    except InvalidInput:
        return text
