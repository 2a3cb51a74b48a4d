"""The page about one model: its worst class, the size of the gap, and the attacks behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairbench.evaluation.exhibits import BrokenImage, Exhibits
from fairbench.evaluation.report import Report
from fairbench.evaluation.verdicts import UNION
from fairbench.report.html.page import fraction, picture, render_page
from fairbench.report.text.table import headline
from fairbench.statistics.metrics import Summary, confusion, inside

__all__ = ["notebook", "page"]

# Beyond so many classes, charts show the lowest ones, and matrices their largest cells.
_SHOWN = 20
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 360.0, 230.0, 34.0, 30.0, 10.0


@dataclass(frozen=True)
class _Bar:
    name: str
    share: float
    low: float
    high: float
    worst: bool


def page(report: Report, exhibits: Exhibits | None = None, *, title: str, data: str = "") -> str:
    """Return a page that stands alone, as HTML; `data` names the dataset.

    Without exhibits it has no curve of robustness by eps, no flow between classes and no images.
    """
    summaries = {attack: report.summary(attack) for attack in (*report.verdicts, UNION)}
    union = summaries[UNION]
    order = np.argsort(np.nan_to_num(union.per_class, nan=np.inf), kind="stable")[:_SHOWN]
    flow = None if exhibits is None else exhibits.flow
    return render_page(
        "model.html",
        title=title,
        facts=_facts(report, data),
        headline=headline(report),
        names=report.class_names,
        worst=report.class_names[union.worst_class],
        union=union,
        summaries=summaries,
        panels={attack: _bars(report, found, order, union.worst_class) for attack, found in summaries.items()},
        left_out=len(report.class_names) - len(order),
        flags=report.flags,
        red=[name for name, flag in report.flags.items() if flag.red],
        confusion=_matrix(_shares(report), report.class_names),
        flow=None if flow is None else _matrix(flow, report.class_names),
        exhibits=exhibits,
        curve=None if exhibits is None else _curve(exhibits, union.worst_class, report.class_names),
        broken=[] if exhibits is None else [_pictures(one, report.class_names) for one in _chosen(exhibits, order)],
    )


def notebook(report: Report) -> str:
    """Return the table of the attacks as a piece of HTML without a style sheet, for a notebook's cell."""
    summaries = {attack: report.summary(attack) for attack in (*report.verdicts, UNION)}
    facts = _facts(report, "")
    return render_page(
        "notebook.html", headline=headline(report), facts=facts, names=report.class_names, found=summaries
    )


def _facts(report: Report, data: str) -> dict[str, str]:
    """What stands at the head of a page, by name."""
    facts = {"Data:": data} if data else {}
    if report.threat is not None:
        facts["threat:"] = f"{report.threat[0]} {fraction(report.threat[1])}"
    facts |= {"attacks:": ", ".join(report.verdicts), "strength:": report.strength}
    facts |= {"images:": report.subset} if report.subset else {}
    return facts | ({"note:": "; ".join(report.remarks)} if report.remarks else {})


def _bars(report: Report, found: Summary, order: NDArray[np.int64], worst: int) -> list[_Bar]:
    return [
        _Bar(
            report.class_names[c],
            float(found.per_class[c]),
            float(found.per_class_lo[c]),
            float(found.per_class_hi[c]),
            bool(c == worst),
        )
        for c in order
    ]


def _shares(report: Report) -> NDArray[np.float64]:
    """Confusion under the union as shares [C,C] of the true class; NaN for a class without images."""
    num_classes = report.verdicts.num_classes
    labels, predicted = inside(report.verdicts.labels, report.verdicts.union())
    counts = confusion(labels, predicted, num_classes)
    with np.errstate(invalid="ignore"):
        shares: NDArray[np.float64] = counts / np.bincount(labels, minlength=num_classes)[:, None]
    return shares


def _matrix(shares: NDArray[np.float64], names: Sequence[str]) -> dict[str, Any]:
    """A table of shares where that can be read, else its largest cells off the diagonal."""
    if len(names) <= _SHOWN:
        return {"rows": shares.tolist(), "pairs": []}
    away = np.where(np.eye(len(names), dtype=bool), -1.0, np.nan_to_num(shares, nan=-1.0))
    cells = np.argsort(-away, axis=None, kind="stable")[:_SHOWN]
    pairs = [
        (names[row], names[column], float(away[row, column]))
        for row, column in zip(*np.unravel_index(cells, away.shape), strict=True)
    ]
    return {"rows": [], "pairs": [pair for pair in pairs if pair[2] > 0]}


def _curve(exhibits: Exhibits, worst: int, names: Sequence[str]) -> dict[str, Any]:
    """Coordinates of robustness against eps: a line a class, the worst one and the average above the others."""
    across = _WIDTH - _LEFT - _TOP
    top = exhibits.eps[-1] or 1.0
    xs = [_LEFT + across * eps / top for eps in exhibits.eps]
    average = np.nanmean(exhibits.curve, axis=1)

    def line(values: NDArray[np.float64]) -> str:
        height = _HEIGHT - _BOTTOM - _TOP
        return " ".join(f"{x:.1f},{_TOP + height * (1 - y):.1f}" for x, y in zip(xs, values, strict=True) if y == y)

    columns = exhibits.curve.T
    others = {names[c]: line(values) for c, values in enumerate(columns) if c != worst and not np.isnan(values).all()}
    ticks = [(round(x, 1), fraction(eps)) for x, eps in zip(xs, exhibits.eps, strict=True)]
    return {
        "others": others,
        "worst": line(columns[worst]),
        "average": line(average),
        "ticks": ticks,
        "rows": [(names[c], values.tolist()) for c, values in enumerate(columns[: len(names)])],
        "averages": average.tolist(),
    }


def _chosen(exhibits: Exhibits, order: NDArray[np.int64]) -> list[BrokenImage]:
    """All kept images of the lowest class, then one of every other, the lowest first."""
    by_class = {int(c): [one for one in exhibits.broken if one.label == c] for c in order}
    first, *rest = by_class.values()
    return first + [found[0] for found in rest if found]


def _pictures(one: BrokenImage, names: Sequence[str]) -> dict[str, Any]:
    """Three pictures: the image, the adversarial one, and what was added, stretched around grey."""
    added = one.adversarial - one.original
    reach = float(np.abs(added).max()) or 1.0
    shown = (one.original, one.adversarial, 0.5 + 0.5 * added / reach)
    return {
        "index": one.index,
        "label": names[one.label],
        "predicted": names[one.predicted],
        "pictures": [picture(np.rint(255 * values).clip(0, 255).astype(np.uint8)) for values in shown],
        "reach": 255 * reach,
    }
