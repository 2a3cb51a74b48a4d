"""The charts of a training on a method's page: curves over the epochs, for every seed on the same scales."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fairbench.report.flows import Run
from fairbench.report.history import class_state, read_history
from fairbench.report.html.charts import NARROW, WIDTH, lines
from fairbench.report.html.page import Values

__all__ = ["curves"]

# With more lines than this, the lowest and the highest keep a colour and the others are thin and grey.
MANY, SHOWN = 12, 3
HELD_OUT = ("average", "worst")


@dataclass(frozen=True)
class _Panel:
    """One chart of one seed, with one line per name over the epochs."""

    title: str
    unit: str
    epochs: Sequence[float]
    series: Mapping[str, Sequence[float]]


def curves(runs: Sequence[Run]) -> list[Values]:
    """Return the seed and the charts of each run with a history: the selection curve and every class-wise vector."""
    found = [(record["seed"], list(_panels((folder, record)))) for folder, record in runs if folder.history.exists()]
    reach: dict[str, list[float]] = {}
    for _, panels in found:
        for panel in panels:
            reach.setdefault(panel.title, []).extend(value for values in panel.series.values() for value in values)
    return [
        {"seed": str(seed), "charts": [_chart(panel, reach[panel.title]) for panel in panels]}
        for seed, panels in found
        if panels
    ]


def _panels(run: Run) -> Iterator[_Panel]:
    folder, record = run
    history = read_history(folder.path)
    epochs = history["epoch"].to_list()
    if len(epochs) < 2:
        return
    held_out = {name: (100 * history[name]).to_list() for name in HELD_OUT if name in history}
    if held_out:
        yield _Panel("held-out robust accuracy", "robust accuracy, %", epochs, held_out)
    for vector, frame in class_state(history).items():
        names = enumerate(map(str, record["class_names"]))
        series = {name: frame[number].to_list() for number, name in names if number in frame}
        yield _Panel(f"{vector} by class", vector, epochs, series)


def _chart(panel: _Panel, reach: Sequence[float]) -> Values:
    series = panel.series
    ordered = sorted(series, key=lambda name: (_last(series[name]), name))
    shown = list(series) if len(series) <= MANY else [*ordered[:SHOWN], *ordered[-SHOWN:]]
    ends = [f"{name}: {_last(series[name]):.3g}" for name in (ordered[:1] + ordered[-1:])]
    return {
        "title": panel.title,
        "sizes": [
            lines(series, panel.epochs, x_title="epoch", y_title=panel.unit, reach=reach, width=width)
            for width in (WIDTH, NARROW)
        ],
        "shown": shown,
        "others": len(series) - len(shown),
        "summary": f"at the end lowest {ends[0]}, highest {ends[-1]}",
    }


def _last(values: Sequence[float]) -> float:
    return next((float(value) for value in reversed(values) if math.isfinite(value)), math.nan)
