"""The report of an evaluation: robust accuracy by class, with the files that hold it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fairbench.errors import Missing
from fairbench.evaluation.figure import ClassFigure, Figure
from fairbench.evaluation.store import pack, write_verdicts
from fairbench.evaluation.verdicts import UNION, Flag, Verdicts
from fairbench.files import write_json, write_text
from fairbench.plugins.calls import parse_call
from fairbench.statistics import metrics

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Report", "escape_mathtext"]

_AUTOATTACKS = ("autoattack", "autoattack-fast")
_HARMLESS = {"batch_size", "per_class", "version"}


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The result of an evaluation; `class_names` are in the order of the class numbers.

    Figures are fractions under the union of all attacks; `report.worst(attack="pgd-20")` is the figure under one
    attack. `flags` are those of the sanity checks by name, empty if none ran; `threat` is the norm and eps. `remarks`
    list peculiarities of the model and the images. `flagged` is the number of images of the sanity checks: the first of
    every class, the second of every class, and so on. `subset_of` is the size of the whole dataset if `limit` took a
    class-balanced subset, else None. `audited` says by name what identifies the evaluation, for its page: the hashes of
    the weights and of the data, the call and its settings. `data` is the SHA-256 of images, labels and class names,
    empty if it is unknown.
    """

    verdicts: Verdicts
    class_names: tuple[str, ...]
    flags: Mapping[str, Flag] = field(default_factory=dict)
    threat: tuple[str, float] | None = None
    remarks: tuple[str, ...] = ()
    flagged: int = 0
    subset_of: int | None = None
    audited: Mapping[str, str] = field(default_factory=dict)
    data: str = ""

    @property
    def average(self) -> Figure:
        """Robust accuracy over all images."""
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
        """Name of the attack with the lowest robust accuracy on the images that all attacks saw, the first if tied."""
        labels, seen = self.verdicts.labels, self.verdicts.union() != metrics.OUTSIDE
        return min(self.verdicts, key=lambda attack: int((self.verdicts[attack] == labels)[seen].sum()))

    @property
    def strength(self) -> str:
        """A sentence that names the strongest attack of the evaluation, and says whether a stronger one is known."""
        if all(parse_call(attack).name == "clean" for attack in self.verdicts):
            return "no attack ran"
        strongest = f"strongest attack that ran: {self.strongest} ({100 * self.summary(self.strongest).average:.1f} %)"
        if any(_is_autoattack(attack) for attack in self.verdicts):
            return strongest
        return f"{strongest}; AutoAttack did not run in full, and may find less"

    @property
    def subset(self) -> str:
        """A sentence that says that the figures are those of a subset; empty for the whole dataset."""
        if self.subset_of is None:
            return ""
        return f"class-balanced subset of {len(self.verdicts.labels)} of {self.subset_of} images"

    @property
    def per_class(self) -> pd.DataFrame:
        """One row per class: its images, its accuracy under each attack and the union, and the interval of the union.

        Intervals are Clopper-Pearson at 95 % for a single class.
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
        """Draw class accuracies with their intervals and mark the worst class; returns the axes.

        Raises Missing if matplotlib is not installed.
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
        ax.set_xticks(where, [escape_mathtext(name) for name in self.class_names], rotation=45, ha="right")
        ax.set(ylim=(0, 1), ylabel=escape_mathtext(f"accuracy under {attack}"))
        ax.legend()
        return ax

    def as_dict(self) -> dict[str, Any]:
        """Return every figure by attack, JSON-ready; NaN becomes null."""
        figures = {
            attack: {key: _rounded(value) for key, value in self.summary(attack).as_dict().items()}
            for attack in [*self.verdicts, UNION]
        }
        subset = {} if self.subset_of is None else {"subset": {"of": self.subset_of, "said": self.subset}}
        return {
            "betrayed_class": self.class_names[self.worst_class],
            "class_names": list(self.class_names),
            **({"data_hash": self.data} if self.data else {}),
            "threat": None if self.threat is None else dict(zip(("norm", "eps"), self.threat, strict=True)),
            "engine": self.verdicts.engine,
            **subset,
            "attacks": figures,
            "flagged_images": self.flagged,
            "flags": {name: {"value": flag.value, "red": flag.red} for name, flag in self.flags.items()},
            "strongest": self.strongest,
            "strength": self.strength,
            "remarks": list(self.remarks),
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """Return every figure as JSON, as `fairbench evaluate --json` prints it, and write it to `path` if given."""
        text = json.dumps(self.as_dict(), indent=1)
        if path is not None:
            write_text(Path(path), text + "\n")
        return text

    def to_html(self, path: str | Path | None = None, *, title: str = "The model") -> str:
        """Return a self-contained HTML page, which needs no network, and write it to a path if one is given."""
        page: str = _pages().page(self, title=title)
        if path is not None:
            write_text(Path(path), page)
        return page

    def save(self, folder: str | Path) -> None:
        """Write `report.json` and `verdicts.npz`, which `fairbench check` compares, into a folder."""
        report = Path(folder) / "report.json"
        report.unlink(missing_ok=True)  # a killed process leaves no report with the verdicts of another
        write_verdicts(Path(folder) / "verdicts.npz", self.verdicts.labels, pack(self.verdicts))
        write_json(report, self.as_dict())

    def _repr_html_(self) -> str:
        """The table of the attacks, for notebooks."""
        table: str = _pages().notebook(self)
        return table

    def __repr__(self) -> str:
        found = self.summary()
        return (
            f"{self.subset or f'{found.n} images'} under {', '.join(self.verdicts)}: average {found.average:.4f}, "
            f"worst class {self.class_names[found.worst_class]} {found.worst:.4f} "
            f"[{found.worst_lo:.4f}, {found.worst_hi:.4f}], {self.strength}, NSD {found.nsd:.4f}"
        )

    def _figure(self, name: str) -> Figure:
        figure = Figure(getattr(self.summary(), name))
        figure._under = partial(_figure_under, self, name)
        return figure


def escape_mathtext(text: object) -> str:
    """Return a name that matplotlib draws unchanged; it would read text between dollar signs as mathematics."""
    return str(text).replace("$", r"\$")


def _pages() -> Any:
    """Return the module that renders reports. It depends on this module, so it is imported by name on first use."""
    return import_module("fairbench.report.html.model")


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value


def _is_autoattack(text: str) -> bool:
    """Whether an attack's text names AutoAttack with its standard budgets and components."""
    call = parse_call(text)
    leaves_out = call.arguments.get("version") == "rand"  # FAB, Square and targeted APGD
    return call.name in _AUTOATTACKS and call.arguments.keys() <= _HARMLESS and not leaves_out


def _figure_under(report: Report, name: str, attack: str) -> float:
    return float(getattr(report.summary(attack), name))


def _class_under(report: Report, attack: str) -> int:
    return report.summary(attack).worst_class
