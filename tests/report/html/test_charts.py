from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fairbench.report.html.charts import HEIGHT, NARROW, WIDTH, Axis, Mark, dots, lines, scatter


def mark(x, y, name="m", **more):
    return Mark(x, y, name, f"{name}: {x}", **more)


def test_an_axis_maps_its_ends_to_its_pixels_and_stops_there():
    axis = Axis("", 0, 10, 100, 500)
    assert [axis.at(value) for value in (0, 5, 10, 20, -5)] == [100, 300, 500, 500, 100]
    assert axis.ticks == [(100, "0"), (180, "2"), (260, "4"), (340, "6"), (420, "8"), (500, "10")]
    assert [text for _, text in Axis("", 0, 10, 100, 300).ticks] == ["0", "5", "10"]  # a short axis has fewer


def test_a_logarithmic_axis_ticks_at_one_two_and_five():
    axis = Axis("", 1_000, 1_000_000, 0, 300, log=True)
    assert axis.at(31_622.8) == 150
    assert [text for _, text in axis.ticks][:4] == ["1 k", "2 k", "5 k", "10 k"]


def test_a_scatter_holds_every_finite_point_and_joins_the_front():
    chart = scatter(
        [mark(10, 20, "a", y_ends=(10, 30)), mark(30, 10, "b", x_ends=(math.nan, 1)), mark(math.nan, 1, "c")],
        x_title="x",
        y_title="y",
        front=["a", "b", "c"],
    )
    first, second = chart.marks
    assert (first.name, second.name) == ("a", "b")
    assert chart.front == f"{first.x},{first.y} {second.x},{second.y}"
    assert first.y_ends[0] > first.y > first.y_ends[1]
    assert second.x_ends is None


points = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=40)


@given(points)
@example([(0.0, 0.0), (0.0, 39.3125), (1.0, 26.75), (1.0, 26.75)])  # two names that touch
def test_names_cover_neither_each_other_nor_a_point(given_points):
    marks = [mark(x, y, f"method_{number}") for number, (x, y) in enumerate(given_points)]
    chart = scatter(marks, x_title="", y_title="")
    boxes = [(label.x, label.y - 10, label.x + 6.6 * len(label.text), label.y + 3) for label in chart.labels]
    for number, (left, top, right, bottom) in enumerate(boxes):
        right, bottom = right - 1e-9, bottom - 1e-9  # edges may meet
        assert left > 0
        assert right < WIDTH
        assert top > 0
        assert bottom < HEIGHT
        for other in boxes[number + 1 :]:
            assert not (left < other[2] - 1e-9 and other[0] < right and top < other[3] - 1e-9 and other[1] < bottom)
        assert not any(left < one.x < right and top < one.y < bottom for one in chart.marks)


def test_dots_stand_in_rows_from_the_top():
    chart = dots([("a", [mark(1, 0)]), ("b", [mark(2, 0), mark(math.nan, 0)])], x_title="", high=4)
    assert [one.y for one in chart.marks] == [25, 47]
    assert [label.text for label in chart.labels] == ["a", "b"]
    assert chart.x.at(4) == chart.x.end


def test_lines_break_at_gaps_and_level_stretches_are_one_stroke():
    chart = lines(
        {"a": [1, 1, 1, 2], "b": [0, math.nan, 2, 1], "c": [0, 1, 1, 1]}, [0, 1, 2, 3], x_title="", y_title=""
    )
    assert [chart.paths["a"].count(letter) for letter in "ML"] == [1, 2]
    assert [chart.paths["b"].count(letter) for letter in "ML"] == [2, 1]
    assert [chart.paths["c"].count(letter) for letter in "ML"] == [1, 2]


@pytest.mark.parametrize("values", [[], [5.0], [0.0, 0.0], [-1.0, -2.0], [1e-9, 2e-9], [1e15, 3e15]])
def test_an_axis_fits_any_values(values):
    chart = scatter([mark(value, value) for value in values], x_title="", y_title="")
    assert all(0 <= one.x <= WIDTH and 0 <= one.y <= HEIGHT for one in chart.marks)
    assert len(chart.x.ticks) >= 2


@given(st.lists(st.tuples(*[st.floats(0, 100)] * 6), min_size=2, max_size=20), st.sampled_from([WIDTH, NARROW]))
def test_no_error_bar_and_no_line_strikes_a_name(given_points, width):
    marks = [
        mark(x, y, f"method_{number}", x_ends=(min(a, x), max(b, x)), y_ends=(min(c, y), max(d, y)))
        for number, (x, y, a, b, c, d) in enumerate(given_points)
    ]
    front = [one.name for one in sorted(marks, key=lambda one: one.x)[:3]]
    chart = scatter(marks, x_title="", y_title="", front=front, width=width)
    line = [tuple(map(float, pair.split(","))) for pair in chart.front.split()]
    steps = [
        (a[0] + (b[0] - a[0]) * t / 50, a[1] + (b[1] - a[1]) * t / 50) for a, b in pairwise(line) for t in range(51)
    ]
    for label in chart.labels:
        left, right, top, bottom = label.x, label.x + 6.6 * len(label.text), label.y - 10, label.y + 3
        assert right < width
        for one in chart.marks:
            across, up = sorted(one.x_ends), sorted(one.y_ends)
            assert not (top < one.y < bottom and across[0] < right and left < across[1])
            assert not (left < one.x < right and up[0] < bottom and top < up[1])
        assert not any(left < x < right and top < y < bottom for x, y in steps)
