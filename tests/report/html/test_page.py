from __future__ import annotations

import base64
import io
import math
import re

import numpy as np
import pytest
from contrast import contrast, rgb
from jinja2 import UndefinedError
from PIL import Image

from fairbench.errors import UNPRINTABLE
from fairbench.report.html.page import _environment, fraction, percent, picture, render_page

TRAP = "<img src=x onerror=alert(1)>"
BASE = "{% extends 'base.html' %}{% import 'charts.html' as charts %}"


def fill(source, **values):
    return _environment().from_string(BASE + source).render(version="1", **values)


def colours(css):
    """The custom properties of the first and of the second `:root` block: light and dark."""
    return [dict(re.findall(r"--(\w+): #(\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8 / 255, "8/255"),
        (0.5 / 255, "0.5/255"),
        (0.2, "0.2"),
        (0.3, "0.3"),
        (0.0, "0"),
        (1.0, "1"),
        (0.12345, "0.123"),
    ],
)
def test_budgets_read_as_they_were_given(value, text):
    assert fraction(value) == text


def test_shares_are_percent_and_what_is_none_is_a_dash():
    assert (percent(0.4567), percent(math.nan)) == ("45.7 %", "-")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_a_png_of_the_same_pixels(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    head, _, data = picture(image).partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).reshape(image.shape), image)


def test_what_users_name_is_text():
    page = fill(
        "{% block main %}<p title='{{ name }}'>{{ name }}</p>{{ charts.bars(rows, name) }}"
        "{{ charts.matrix([name], [[0.5]], name, name) }}{% endblock %}",
        name=TRAP,
        rows=[{"name": TRAP, "share": 0.5, "low": 0.4, "high": 0.6, "worst": True}],
    )
    assert "<img" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 9


def test_control_characters_of_names_are_shown_as_escapes():
    name = "a\x1b[31m\u202eb\x00\x9b"
    page = fill(
        "{% block main %}<p title='{{ name }}'>\n\t{{ name }}{{ '<b>'|safe ~ name }}</p>{{ charts.bars(rows, name) }}"
        "{{ charts.matrix([name], [[0.5]], name, name) }}{{ name|unbroken }}{% endblock %}",
        name=name,
        rows=[{"name": name, "share": 0.5, "low": 0.4, "high": 0.6, "worst": True}],
    )
    assert not UNPRINTABLE.keys() & set(map(ord, page))
    assert page.count(r"a\x1b[31m\u202eb\x00\x9b") == 11
    assert "<p title='a\\x1b" in page
    assert "\n\t" in page


def test_a_value_that_a_template_lacks_is_an_error_not_a_blank():
    with pytest.raises(UndefinedError):
        fill("{% block main %}{{ nothing }}{% endblock %}")


def test_pages_name_no_address_and_forbid_requests():
    page = render_page("base.html")
    assert "://" not in page
    assert "default-src 'none'" in page
    assert "script" not in page


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_is_readable_on_every_colour(theme):
    """WCAG AA asks for 4.5 where there is text, shaded cells of every share included, and 3 for marks."""
    light, dark = colours(render_page("base.html"))
    theme = [light, {**light, **dark}][theme]
    page, ink, deep, heat = (rgb(theme[name]) for name in ("page", "ink", "deep", "heat"))
    for name in ("ink", "soft", "link", "alert"):
        assert contrast(rgb(theme[name]), page) >= 4.5, name
        assert contrast(rgb(theme[name]), rgb(theme["panel"])) >= 4.5, name
    for name in ("bar", "worst"):
        assert contrast(rgb(theme[name]), rgb(theme["panel"])) >= 3, name
    for share in np.linspace(0, 1, 201):
        cell = page + share * (heat - page)
        assert contrast(deep if share > 0.655 else ink, cell) >= 4.5, share


def test_a_bar_is_as_long_as_its_share_and_a_class_without_images_has_none():
    rows = [
        {"name": "cat", "share": 0.25, "low": 0.1, "high": 0.5, "worst": True},
        {"name": "dog", "share": math.nan, "low": math.nan, "high": math.nan, "worst": False},
    ]
    page = fill("{% block main %}{{ charts.bars(rows, 'x') }}{% endblock %}", rows=rows)
    assert re.findall(r'<rect x="0" y="1" width="([\d.]+)"', page) == ["25.00"]
    assert re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)"', page) == [("10.00", "50.00")]
    assert page.count('<tr class="worst">') == 1


def test_a_matrix_shades_by_share_and_outlines_the_diagonal():
    page = fill(
        "{% block main %}{{ charts.matrix(['cat', 'dog'], shares, 'x', 'from') }}{% endblock %}",
        shares=[[0.9, 0.1], [math.nan, 1.0]],
    )
    cells = re.findall(r'<td class="([^"]*)" style="--share: ([\d.]+)">([^<]*)</td>', page)
    assert [(classes.split(), share, text) for classes, share, text in cells] == [
        (["own", "deep"], "0.900", "90"),
        ([], "0.100", "10"),
        ([], "0", "-"),
        (["own", "deep"], "1.000", "100"),
    ]


@pytest.mark.parametrize("dark", [False, True])
def test_the_bare_page_opens_in_a_browser_without_a_complaint(visit, tmp_path, dark):
    (tmp_path / "page.html").write_text(render_page("base.html"), encoding="utf-8")
    seen = visit(tmp_path / "page.html", dark=dark)
    assert (seen.errors, seen.requests) == ([], [])
    assert seen.page.evaluate("getComputedStyle(document.body).color") == (
        "rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)"
    )
