"""What attacks did to a model: the verdict on every image, and the report that says which class is betrayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fairbench.errors import Missing, UnknownName
from fairbench.registry import parse_call
from fairbench.statistics import metrics

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


__all__ = ["UNION", "ClassFigure", "Figure", "Flag", "Report", "Verdicts", "plain"]

IntArray = NDArray[np.int64]

UNION = "union"
_AUTOATTACKS = ("autoattack", "autoattack-fast")
_HARMLESS = {"batch_size", "per_class", "version"}


@dataclass(frozen=True)
class Flag:
    """What a check measured, and whether that is a warning."""

    value: float
    red: bool


@dataclass(frozen=True, eq=False)
class Verdicts(Mapping[str, IntArray]):
    """What a model made of every image under every attack, a mapping from an attack's text to int64 [N].

    A verdict is the class predicted once the image is broken, else the true one, `labels` int64 [N]. `predicted` is in
    protocol order. `components` has, by the text of an attack that is an ensemble, the verdicts of each component that
    ran, in order, -1 for images that an earlier one had broken. -2, in either, marks images outside the subset of an
    attack with `per_class`, which no figure counts. `engine` names what adversarial images were crafted
    with: `plain` for the model itself, else the copy of it, `c`, `torch` or `bfloat16`.
    """

    labels: IntArray
    predicted: Mapping[str, IntArray]
    num_classes: int
    components: Mapping[str, Mapping[str, IntArray]] = field(default_factory=dict)
    engine: str = "plain"

    def __getitem__(self, attack: str) -> IntArray:
        return self.predicted[attack]

    def __iter__(self) -> Iterator[str]:
        return iter(self.predicted)

    def __len__(self) -> int:
        return len(self.predicted)

    def union(self) -> IntArray:
        """Return int64 [N]: the class of the first break in protocol order, else the true one.

        Images that some attack did not see are -2.
        """
        return metrics.union(self.labels, self.predicted)

    def first_break(self) -> NDArray[np.str_]:
        """Return text [N]: the attack that broke each image first, in protocol order, empty where none did.

        An image that an ensemble broke names the component too, as in `autoattack-fast#square`. Images that some attack
        did not see stay empty.
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
        if attack != UNION and attack not in self.predicted:
            raise UnknownName("attack of this report", attack, [*self.predicted, UNION])
        predicted = self.union() if attack == UNION else self.predicted[attack]
        return metrics.summarise(self.labels, predicted, self.num_classes)


class Figure(float):
    """A figure under the union of all attacks; called with `attack=`, the same figure under that attack."""

    _under: Callable[[str], float]

    def __call__(self, attack: str = UNION) -> float:
        """Return the figure under one attack; raises UnknownName."""
        return self._under(attack)


class ClassFigure(int):
    """A class, found under the union of all attacks; called with `attack=`, the one found under that attack."""

    _under: Callable[[str], int]

    def __call__(self, attack: str = UNION) -> int:
        """Return the class found under one attack; raises UnknownName."""
        return self._under(attack)


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What an evaluation found; `class_names` are in the order of the classes' numbers.

    Figures are fractions under the union of all attacks; `report.worst(attack="pgd-20")` is the figure under one.
    `flags` are those of the sanity checks by name, empty where none was run; `threat` is the norm and eps. `remarks`
    say what a first look found odd in how the model and the images were given. `flagged` is the number of images that
    the sanity checks looked at: the first of every class, the second of every class, and so on.
    """

    verdicts: Verdicts
    class_names: tuple[str, ...]
    flags: Mapping[str, Flag] = field(default_factory=dict)
    threat: tuple[str, float] | None = None
    remarks: tuple[str, ...] = ()
    flagged: int = 0

    @property
    def average(self) -> Figure:
        """Share of images that withstand."""
        return self._figure("average")

    @property
    def worst(self) -> Figure:
        """Accuracy of the worst class, biased low: `summary()` has intervals and the cross-fitted figure."""
        return self._figure("worst")

    @property
    def nsd(self) -> Figure:
        """Population standard deviation over classes of class accuracy, divided by its mean."""
        return self._figure("nsd")

    @property
    def worst_class(self) -> ClassFigure:
        """Number of the worst class."""
        figure = ClassFigure(self.summary().worst_class)
        figure._under = partial(_class_under, self)
        return figure

    @property
    def strongest(self) -> str:
        """Name of the attack that left the fewest of the images that all attacks saw, the first of several."""
        labels, seen = self.verdicts.labels, self.verdicts.union() != metrics.OUTSIDE
        return min(self.verdicts, key=lambda attack: int((self.verdicts[attack] == labels)[seen].sum()))

    @property
    def strength(self) -> str:
        """A sentence: the strongest attack that ran, and whether a stronger one than those that ran is known."""
        if all(parse_call(attack).name == "clean" for attack in self.verdicts):
            return "no attack ran"
        strongest = f"strongest attack that ran: {self.strongest} ({100 * self.summary(self.strongest).average:.1f} %)"
        if any(_is_autoattack(attack) for attack in self.verdicts):
            return strongest
        return f"{strongest}; AutoAttack did not run in full, and may find less"

    @property
    def per_class(self) -> pd.DataFrame:
        """A row a class: its number of images, its accuracy under each attack and the union, and the latter's interval.

        Intervals are Clopper-Pearson at 95 % for one class.
        """
        import pandas as pd

        union = self.summary()
        columns: dict[str, NDArray[Any]] = {"n": union.class_n}
        columns.update({attack: self.summary(attack).per_class for attack in (*self.verdicts, UNION)})
        columns.update({"union_lo": union.per_class_lo, "union_hi": union.per_class_hi})
        return pd.DataFrame(columns, index=pd.Index(self.class_names, name="class"))

    def summary(self, attack: str = UNION) -> metrics.Summary:
        """Return every figure under one attack, or under the union of all; raises UnknownName."""
        return self.verdicts.summary(attack)

    def plot(self, attack: str = UNION, ax: Axes | None = None) -> Axes:
        """Draw class accuracies with their intervals, the worst class marked; returns the axes.

        Raises Missing where matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot
        except ImportError:
            raise Missing("plots need matplotlib: pip install matplotlib") from None
        found = self.summary(attack)
        if ax is None:
            _, ax = pyplot.subplots(figsize=(0.5 * len(self.class_names) + 2.0, 3.5), layout="constrained")
        where = np.arange(len(self.class_names))
        errors = np.nan_to_num([found.per_class - found.per_class_lo, found.per_class_hi - found.per_class])
        colours = ["tab:red" if c == found.worst_class else "tab:blue" for c in where]
        ax.bar(where, np.nan_to_num(found.per_class), yerr=errors.clip(min=0), color=colours, capsize=2)
        ax.axhline(found.average, color="black", linewidth=1, linestyle="--", label=f"average {found.average:.3f}")
        ax.set_xticks(where, [plain(name) for name in self.class_names], rotation=45, ha="right")
        ax.set(ylim=(0, 1), ylabel=plain(f"accuracy under {attack}"))
        ax.legend()
        return ax

    def __repr__(self) -> str:
        found = self.summary()
        return (
            f"{found.n} images under {', '.join(self.verdicts)}: average {found.average:.4f}, "
            f"worst class {self.class_names[found.worst_class]} {found.worst:.4f} "
            f"[{found.worst_lo:.4f}, {found.worst_hi:.4f}], {self.strength}, NSD {found.nsd:.4f}"
        )

    def _figure(self, name: str) -> Figure:
        figure = Figure(getattr(self.summary(), name))
        figure._under = partial(_figure_under, self, name)
        return figure


def plain(text: object) -> str:
    """Return a name as matplotlib draws it unchanged: what is between dollars would be read as mathematics."""
    return str(text).replace("$", r"\$")


def _is_autoattack(text: str) -> bool:
    """Whether a text names AutoAttack with its own budgets and components."""
    call = parse_call(text)
    return call.name in _AUTOATTACKS and call.arguments.keys() <= _HARMLESS


def _figure_under(report: Report, name: str, attack: str) -> float:
    return float(getattr(report.summary(attack), name))


def _class_under(report: Report, attack: str) -> int:
    return report.summary(attack).worst_class
