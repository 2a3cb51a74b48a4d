"""Where the marks of a page's charts stand: numbers in, coordinates of an inline SVG out; the templates draw them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Axis", "Chart", "Label", "Mark", "dots", "lines", "scatter"]

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 46
ROW, CHARACTER, LINE = 22, 6.6, 13


@dataclass(frozen=True)
class Axis:
    """A scale from values `low`..`high` to pixels `start`..`end`, and the ticks on it."""

    title: str
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Pixel of a value, to a tenth, so that pages hold short numbers; values beyond the ends stay at them."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Pixel and text of about six round values."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        else:
            step = _round_step((self.high - self.low) / 6)
            values = [
                step * k for k in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
            ]
        return [
            (self.at(value), _short(value)) for value in values if self.low <= value * 1.000001 <= self.high * 1.001
        ]


@dataclass(frozen=True)
class Mark:
    """One point: where it is, how far its spread reaches, what it is called and where it leads."""

    x: float
    y: float
    name: str
    text: str
    kind: str = ""
    href: str = ""
    x_ends: tuple[float, float] | None = None
    y_ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Label:
    """A name beside a mark, set so that it covers no other."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Everything a template needs to draw one chart; coordinates are pixels of `width` x `height`."""

    width: int
    height: int
    x: Axis
    y: Axis
    marks: Sequence[Mark] = ()
    labels: Sequence[Label] = ()
    front: str = ""
    paths: Mapping[str, str] = field(default_factory=dict)


def scatter(
    points: Iterable[Mark], *, x_title: str, y_title: str, front: Sequence[str] = (), log_x: bool = False
) -> Chart:
    """Lay out points given in values; `front` names those that a line joins, in its order.

    As many names are written as fit without covering a point or each other, those of the front first.
    """
    points = [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
    x = Axis(x_title, *_range((v for p in points for v in (p.x, *(p.x_ends or ()))), log_x), LEFT, WIDTH - RIGHT, log_x)
    y = Axis(y_title, *_range(v for p in points for v in (p.y, *(p.y_ends or ()))), HEIGHT - BOTTOM, TOP)
    marks = [_placed(point, x, y) for point in points]
    by_name = {mark.name: mark for mark in marks}
    joined = " ".join(f"{by_name[name].x},{by_name[name].y}" for name in front if name in by_name)
    first = [by_name[name] for name in front if name in by_name]
    labels = _labels([*first, *(mark for mark in marks if mark not in first)], marks)
    return Chart(WIDTH, HEIGHT, x, y, marks, labels, joined)


def dots(rows: Sequence[tuple[str, Sequence[Mark]]], *, x_title: str, high: float | None = None) -> Chart:
    """Lay out one row per name with its points on a common axis from 0; a mark's `y` is ignored."""
    left = round(20 + CHARACTER * max((min(len(name), 28) for name, _ in rows), default=0))
    height = TOP + ROW * len(rows) + BOTTOM
    values = [v for _, marks in rows for m in marks for v in (m.x, *(m.x_ends or ())) if math.isfinite(v)]
    x = Axis(x_title, 0.0, high or 1.05 * max(values, default=1.0) or 1.0, left, WIDTH - RIGHT)
    y = Axis("", 0.0, max(len(rows), 1), TOP, TOP + ROW * max(len(rows), 1))
    placed = [
        _placed(Mark(m.x, place + 0.5, m.name, m.text, m.kind, m.href, m.x_ends), x, y)
        for place, (_, marks) in enumerate(rows)
        for m in marks
        if math.isfinite(m.x)
    ]
    names = [Label(left - 10, y.at(place + 0.5), _cut(name)) for place, (name, _) in enumerate(rows)]
    return Chart(WIDTH, height, x, y, placed, names)


def lines(
    series: Mapping[str, Sequence[float]],
    across: Sequence[float],
    *,
    x_title: str,
    y_title: str,
    height: int = 260,
    reach: Iterable[float] = (),
) -> Chart:
    """Lay out one line per name over common abscissae; gaps (nan) break a line, and `reach` widens the other axis."""
    x = Axis(x_title, *_range(across, margin=0), LEFT, WIDTH - RIGHT)
    y = Axis(y_title, *_range(v for values in (*series.values(), reach) for v in values), height - BOTTOM, TOP)
    paths = {name: _path(x, y, across, values) for name, values in series.items()}
    return Chart(WIDTH, height, x, y, paths=paths)


def _path(x: Axis, y: Axis, across: Sequence[float], values: Sequence[float]) -> str:
    """SVG path data; runs of equal values are one stroke."""
    pieces, drawing = [], False
    values = [float(value) for value in values]
    for place, (where, value) in enumerate(zip(across, values, strict=True)):
        if not math.isfinite(value):
            drawing = False
            continue
        inside = 0 < place < len(values) - 1
        if drawing and inside and values[place - 1] == value == values[place + 1]:
            continue
        pieces.append(f"{'L' if drawing else 'M'}{x.at(where)},{y.at(value)}")
        drawing = True
    return "".join(pieces)


def _placed(point: Mark, x: Axis, y: Axis) -> Mark:
    ends: dict[str, Any] = {}
    for name, axis in (("x_ends", x), ("y_ends", y)):
        given = getattr(point, name)
        ends[name] = (axis.at(given[0]), axis.at(given[1])) if given and all(map(math.isfinite, given)) else None
    return Mark(x.at(point.x), y.at(point.y), point.name, point.text, point.kind, point.href, **ends)


def _labels(wanted: Sequence[Mark], marks: Sequence[Mark]) -> list[Label]:
    """Greedy: a name goes right, left, above or below its mark, or is left to the mark's tooltip."""
    boxes = [(mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5) for mark in marks]
    labels = []
    for mark in wanted:
        text = _cut(mark.name)
        length = CHARACTER * len(text)
        for x, y in (
            (mark.x + 8, mark.y + 4),
            (mark.x - 8 - length, mark.y + 4),
            (mark.x - length / 2, mark.y - 9),
            (mark.x - length / 2, mark.y + 17),
        ):
            box = (x, y - LINE + 3, x + length, y + 3)
            fits = box[0] > LEFT and box[2] < WIDTH - RIGHT and box[1] > TOP and box[3] < HEIGHT - BOTTOM
            if fits and not any(_overlap(box, other) for other in boxes):
                boxes.append(box)
                labels.append(Label(round(x, 1), round(y, 1), text))
                break
    return labels


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _range(values: Iterable[float], log: bool = False, margin: float = 0.05) -> tuple[float, float]:
    """Ends of an axis with a margin around finite values; one value alone gets room on both sides."""
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    if not finite:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(finite), max(finite)
    if log:
        return low / 1.5, high * 1.5
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-290):
        room = max(abs(low), abs(high)) if abs(high) > 1e-290 else 1.0
        return low - 0.5 * room, high + 0.5 * room
    pad = margin * (high - low)
    return (0.0 if low >= 0 > low - pad else low - pad), high + pad


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= rough * 0.999999)


def _short(value: float) -> str:
    """A tick's text: thousands and millions by their letters."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g} {letter}"
    return f"{np.round(value, 10):g}"


def _cut(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"
