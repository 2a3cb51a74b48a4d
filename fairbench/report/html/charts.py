"""Layout of the charts on pages: from values to the coordinates of an inline SVG, which the templates draw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["NARROW", "WIDTH", "Axis", "Chart", "Label", "Mark", "dots", "lines", "scatter"]

WIDTH, HEIGHT = 720, 400
NARROW = 380  # width of the same chart on a phone, with letters of the same size
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 46
ROW, CHARACTER, LINE = 22, 6.6, 13

Box = tuple[float, float, float, float]  # left, top, right, bottom


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
        """Return the pixel of a value, rounded to a tenth to keep pages small; values outside the axis are clipped."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Pixel and text of about six round values; half as many on a short axis."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            decades = math.log10(self.high / self.low)
            digits = (1, 2, 5) if decades * 70 < abs(self.end - self.start) else (1,)
            values = [digit * 10.0**power for power in powers for digit in digits]
        else:
            step = _round_step((self.high - self.low) / (6 if abs(self.end - self.start) > 330 else 4))
            values = [
                step * k for k in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
            ]
        return [
            (self.at(value), _short(value)) for value in values if self.low <= value * 1.000001 <= self.high * 1.001
        ]


@dataclass(frozen=True)
class Mark:
    """One point: position, ends of its error bars, name, tooltip (`text`), kind and link."""

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
    """A name beside a mark, placed so that it overlaps no mark, no error bar and no other name."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """What a template needs to draw one chart; coordinates are pixels of `width` x `height`."""

    width: int
    height: int
    x: Axis
    y: Axis
    marks: Sequence[Mark] = ()
    labels: Sequence[Label] = ()
    front: str = ""
    paths: Mapping[str, str] = field(default_factory=dict)


def scatter(
    points: Iterable[Mark],
    *,
    x_title: str,
    y_title: str,
    front: Sequence[str] = (),
    log_x: bool = False,
    width: int = WIDTH,
) -> Chart:
    """Lay out points given in values; a line joins those that `front` names, in its order.

    A name is written only where it overlaps no point, error bar, line or other name; earlier points choose first.
    """
    points = [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
    x = Axis(x_title, *_range((v for p in points for v in (p.x, *(p.x_ends or ()))), log_x), LEFT, width - RIGHT, log_x)
    y = Axis(y_title, *_range(v for p in points for v in (p.y, *(p.y_ends or ()))), HEIGHT - BOTTOM, TOP)
    marks = [_placed(point, x, y) for point in points]
    by_name = {mark.name: mark for mark in marks}
    first = [by_name[name] for name in front if name in by_name]
    labels = _labels(marks, first, width)
    return Chart(width, HEIGHT, x, y, marks, labels, " ".join(f"{mark.x},{mark.y}" for mark in first))


def dots(
    rows: Sequence[tuple[str, Sequence[Mark]]], *, x_title: str, high: float | None = None, width: int = WIDTH
) -> Chart:
    """Lay out one row per name with its points on a common axis from 0; a mark's `y` is ignored."""
    left = round(20 + CHARACTER * max((min(len(name), 28) for name, _ in rows), default=0))
    height = TOP + ROW * len(rows) + BOTTOM
    values = [v for _, marks in rows for m in marks for v in (m.x, *(m.x_ends or ())) if math.isfinite(v)]
    x = Axis(x_title, 0.0, high or 1.05 * max(values, default=1.0) or 1.0, left, width - RIGHT)
    y = Axis("", 0.0, max(len(rows), 1), TOP, TOP + ROW * max(len(rows), 1))
    placed = [
        _placed(Mark(m.x, place + 0.5, m.name, m.text, m.kind, m.href, m.x_ends), x, y)
        for place, (_, marks) in enumerate(rows)
        for m in marks
        if math.isfinite(m.x)
    ]
    names = [Label(left - 10, y.at(place + 0.5), _cut(name)) for place, (name, _) in enumerate(rows)]
    return Chart(width, height, x, y, placed, names)


def lines(
    series: Mapping[str, Sequence[float]],
    across: Sequence[float],
    *,
    x_title: str,
    y_title: str,
    height: int = 260,
    reach: Iterable[float] = (),
    width: int = WIDTH,
) -> Chart:
    """Lay out one line per name over common x values; NaN interrupts a line, and the y axis also covers `reach`."""
    x = Axis(x_title, *_range(across, margin=0), LEFT, width - RIGHT)
    y = Axis(y_title, *_range(v for values in (*series.values(), reach) for v in values), height - BOTTOM, TOP)
    paths = {name: _path(x, y, across, values) for name, values in series.items()}
    return Chart(width, height, x, y, paths=paths)


def _path(x: Axis, y: Axis, across: Sequence[float], values: Sequence[float]) -> str:
    """Return SVG path data; a run of equal values becomes one stroke."""
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
        bounds = getattr(point, name)
        ends[name] = (axis.at(bounds[0]), axis.at(bounds[1])) if bounds and all(map(math.isfinite, bounds)) else None
    return Mark(x.at(point.x), y.at(point.y), point.name, point.text, point.kind, point.href, **ends)


def _labels(marks: Sequence[Mark], front: Sequence[Mark], width: int) -> list[Label]:
    """Place names greedily: each takes the first free place around its mark, or is left to the mark's tooltip."""
    boxes = [(mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5) for mark in marks]
    boxes += [box for mark in marks for box in _bars(mark)]
    boxes += [box for pair in itertools.pairwise(front) for box in _stroke(*pair)]
    labels = []
    for mark in marks:
        text = _cut(mark.name)
        length = CHARACTER * len(text)
        right, left, middle = mark.x + 8, mark.x - 8 - length, mark.x - length / 2
        places = [(x, mark.y + down) for down in (4, -6, 15, -17, 26) for x in (right, left)]
        for x, y in (*places[:6], (middle, mark.y - 9), (middle, mark.y + 17), *places[6:]):
            box = (x, y - LINE + 3, x + length, y + 3)
            fits = box[0] > LEFT and box[2] < width - RIGHT and box[1] > TOP and box[3] < HEIGHT - BOTTOM
            if fits and not any(_overlap(box, other) for other in boxes):
                boxes.append(box)
                labels.append(Label(round(x, 1), round(y, 1), text))
                break
    return labels


def _bars(mark: Mark) -> Iterator[Box]:
    """The boxes of a mark's error bars."""
    if mark.x_ends:
        yield (min(mark.x_ends), mark.y - 0.5, max(mark.x_ends), mark.y + 0.5)
    if mark.y_ends:
        yield (mark.x - 0.5, min(mark.y_ends), mark.x + 0.5, max(mark.y_ends))


def _stroke(start: Mark, end: Mark) -> Iterator[Box]:
    """Small boxes along the straight line between two marks."""
    steps = max(1, math.ceil(math.hypot(end.x - start.x, end.y - start.y) / 4))
    for step in range(steps + 1):
        x, y = (a + (b - a) * step / steps for a, b in ((start.x, end.x), (start.y, end.y)))
        yield (x - 2, y - 2, x + 2, y + 2)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _range(values: Iterable[float], log: bool = False, margin: float = 0.05) -> tuple[float, float]:
    """Return the ends of an axis: the finite values with a margin, or a single value with room on both sides."""
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
    """Write a tick label, with the SI letter for thousands, millions and above."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g} {letter}"
    return f"{np.round(value, 10):g}"


def _cut(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"
