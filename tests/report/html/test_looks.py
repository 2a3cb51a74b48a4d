"""How pages look on a phone and a wide screen, in the light and the dark theme."""

from __future__ import annotations

import re

import pytest
from contrast import contrast, rgb
from page_faults import CONTRASTS, FAULTS

LOOKED_AT = ["index.html", "tiny-v1.html", "cifar10-micro-v1.html", "cifar10-micro-v1/absld.html", "tiny-v1/fair.html"]


@pytest.mark.parametrize("page", ["index.html", "tiny-v1.html", "cifar10-micro-v1.html", "cifar10-micro-v1/absld.html"])
def test_a_phone_shows_a_page_without_scrolling_it_sideways(built, visit, page):
    seen = visit(built.folder / page, width=360)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert (seen.errors, seen.requests) == ([], [])


@pytest.mark.parametrize("system", [False, True], ids=["light", "dark"])
def test_the_theme_follows_the_system_until_it_is_chosen(built, visit, system):
    seen = visit(built.folder / "tiny-v1.html", dark=system)
    page, colour = seen.page, "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(18, 20, 23)"
    assert page.evaluate(colour) == (dark if system else light)
    button = page.locator("#theme")
    for chosen, name in ((light, "light"), (dark, "dark")):
        button.click()
        assert (page.evaluate(colour), button.inner_text()) == (chosen, f"Theme: {name}")
    page.reload()
    assert (page.evaluate(colour), seen.errors) == (dark, [])


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("page", LOOKED_AT)
def test_no_text_is_cut_or_overlaps_and_no_number_breaks(built, visit, page, width, dark):
    seen = visit(built.folder / page, width=width, dark=dark)
    assert seen.page.evaluate(FAULTS) == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert (seen.errors, seen.requests) == ([], [])


def test_every_line_and_mark_has_enough_contrast_in_both_themes(built):
    """WCAG AA asks for 3."""
    text = (built.folder / "index.html").read_text(encoding="utf-8")
    blocks = [
        dict(re.findall(r"--(\w+): #(\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    ]
    light, dark, light_lines, dark_lines = blocks[:4]
    for theme in (light | light_lines, light | light_lines | dark | dark_lines):
        for number in range(6):
            assert contrast(rgb(theme[f"c{number}"]), rgb(theme["page"])) >= 3, number
        for name in ("bar", "worst", "soft"):
            assert contrast(rgb(theme[name]), rgb(theme["page"])) >= 3, name


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", LOOKED_AT)
def test_every_text_has_the_contrast_of_wcag_aa(built, visit, page, dark):
    assert visit(built.folder / page, dark=dark).page.evaluate(CONTRASTS) == []
