"""The page about one model: its worst class, what was audited, every attack, every class, and adversarial images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairbench.evaluation.exhibits import BrokenImage, Exhibits
from fairbench.evaluation.report import Report
from fairbench.evaluation.verdicts import UNION
from fairbench.report.html.page import fraction, picture, render_page
from fairbench.report.text.audit import headline
from fairbench.results.provenance import created_now, cuda_version, package_versions
from fairbench.statistics.metrics import Summary, confusion, inside

__all__ = ["notebook", "page"]

# Beyond so many classes, charts show the lowest ones, and matrices their largest cells.
_SHOWN = 20
# The frame of the chart over eps, as the macro `curve` of charts.html draws it.
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 350.0, 10.0, 200.0


@dataclass(frozen=True)
class _Bar:
    name: str
    share: float
    low: float
    high: float
    worst: bool


def page(
    report: Report,
    exhibits: Exhibits | None = None,
    *,
    title: str,
    data: str = "",
    audited: Mapping[str, str] | None = None,
) -> str:
    """Return a page in one file, as HTML; `data` names the dataset.

    `audited` says by name what else identifies the evaluation, by default what the report says; the date and the
    versions of packages are those of the moment.
    Without exhibits the page has no curve of robustness by eps, no flow between classes and no images.
    """
    summaries = {attack: report.summary(attack) for attack in (*report.verdicts, UNION)}
    union = summaries[UNION]
    order = np.argsort(np.nan_to_num(union.per_class, nan=np.inf), kind="stable")[:_SHOWN]
    flow = None if exhibits is None else exhibits.flow
    return render_page(
        "model.html",
        title=title,
        facts=_facts(report, data) | dict(report.audited if audited is None else audited) | _now(),
        norm="" if report.threat is None else report.threat[0],
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
    """Return the table of the attacks as an HTML fragment without a style sheet, for the output cell of a notebook."""
    summaries = {attack: report.summary(attack) for attack in (*report.verdicts, UNION)}
    facts = _facts(report, "")
    return render_page(
        "notebook.html", headline=headline(report), facts=facts, names=report.class_names, found=summaries
    )


def _facts(report: Report, data: str) -> dict[str, str]:
    """Return what identifies an evaluation, by name."""
    facts = {"data": data} if data else {}
    facts["images"] = report.subset or str(len(report.verdicts.labels))
    if report.threat is not None:
        facts["threat model"] = f"{report.threat[0]}, eps {fraction(report.threat[1])}"
    facts |= {"attacks": ", ".join(report.verdicts), "strength": report.strength}
    return facts | ({"note": "; ".join(report.remarks)} if report.remarks else {})


def _now() -> dict[str, str]:
    """Return the date, and the versions of the packages that figures depend on."""
    versions = package_versions() | cuda_version()
    return {"date": created_now(), "versions": ", ".join(f"{name} {number}" for name, number in versions.items())}


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
    """Return a table of shares; for many classes only its largest cells off the diagonal."""
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
    """Return the coordinates of accuracy against eps: a line per class, and the average over the classes."""
    across = _RIGHT - _LEFT
    top = exhibits.eps[-1] or 1.0
    xs = [_LEFT + across * eps / top for eps in exhibits.eps]
    average = np.nanmean(exhibits.curve, axis=1)

    def line(values: NDArray[np.float64]) -> str:
        height = _BOTTOM - _TOP
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
    """Return all stored images of the worst class, then one of every other class, from low to high accuracy."""
    by_class = {int(c): [one for one in exhibits.broken if one.label == c] for c in order}
    first, *rest = by_class.values()
    return first + [found[0] for found in rest if found]


def _pictures(one: BrokenImage, names: Sequence[str]) -> dict[str, Any]:
    """Return three pictures: the image, the adversarial image, and the perturbation scaled around grey."""
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
