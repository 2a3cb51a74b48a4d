from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from page_faults import CONTRASTS, FAULTS

from fairbench.errors import UNPRINTABLE
from fairbench.evaluation.exhibits import BrokenImage, Exhibits
from fairbench.evaluation.report import Report
from fairbench.evaluation.verdicts import Flag, Verdicts
from fairbench.report.html.model import notebook, page

TRAP = "<img src=x onerror=alert(1)>"
LABELS = np.repeat(np.arange(3), 4)
CLEAN = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
PGD = np.array([0, 0, 0, 1, 1, 0, 0, 0, 2, 2, 2, 2])


def report(names=("cat", "dog", "ship"), flags=None):
    return Report(Verdicts(LABELS, {"clean": CLEAN, "pgd-20": PGD}, 3), names, flags or {}, ("Linf", 8 / 255))


def exhibits(**changes):
    rng = np.random.default_rng(0)
    image = rng.random((4, 4, 3)).astype(np.float32)
    broken = [
        BrokenImage(number, label, other, image, (image + 0.03).clip(0, 1))
        for number, (label, other) in enumerate([(0, 1), (0, 2), (1, 0), (1, 2), (1, 2)])
    ]
    whole = Exhibits(
        attack="pgd-20:rel_step=0.25",
        eps=(0.0, 8 / 255, 16 / 255),
        curve=np.array([[1.0, 1.0, 1.0], [0.75, 0.25, 1.0], [0.5, 0.0, 0.75]]),
        images=12,
        flow=np.array([[1.0, 0.5, 0.0], [0.75, 1.0, 0.25], [0.0, 0.0, 1.0]]),
        flow_images=12,
        broken=tuple(broken),
    )
    return replace(whole, **changes)


FROM_EXHIBITS = ("Where each class can be pushed", "Robustness by eps", "Images that broke")


def made(found=None, shown=None, title="net.safetensors"):
    return page(found or report(), shown or exhibits(), title=title, data="npz:x.npz")


def test_names_of_classes_cannot_steer_a_terminal():
    names = ("a\x1b]0;title\x07", "\u202eb", "c\td")
    for html in (made(report(names)), notebook(report(names))):
        assert not UNPRINTABLE.keys() & set(map(ord, html))
        assert r"a\x1b]0;title\x07" in html


def section(html, heading):
    return html.partition(f"<h2>{heading}</h2>")[2].partition("</section>")[0]


def plain(html):
    return html.replace("\u00a0", " ")


def texts(html):
    return [text.strip() for text in re.sub(r"<[^>]*>", "\n", html).splitlines() if text.strip()]


def test_the_first_line_names_the_worst_class_with_its_interval():
    assert texts(plain(re.search(r"<h1>.*?</h1>", made(), re.DOTALL)[0])) == [
        "net.safetensors",
        "Worst class: dog, 25.0 % robust under all attacks (95 % CI 0.6 to 86.8 %); average 66.7 %",
    ]


def test_every_attack_has_its_bars_the_worst_class_of_the_union_first():
    panels = section(made(), "Accuracy by class").split('<div class="panel">')[1:]
    assert [re.search(r"<caption>(.*?)</caption>", panel)[1] for panel in panels] == [
        "Under clean",
        "Under pgd-20",
        "Under union",
    ]
    for panel in panels:
        assert re.findall(r'<th scope="row">(\w+)</th>', panel) == ["dog", "cat", "ship"]
        assert re.search(r'<tr class="worst"><th scope="row">dog</th>', panel)
    assert re.findall(r'<rect x="0" y="1" width="([\d.]+)"', panels[1]) == ["25.00", "75.00", "100.00"]


def test_confusion_and_flow_are_shares_of_the_row():
    cells = re.compile(r'style="--share: ([\d.]+)"')
    html = made()
    assert [float(share) for share in cells.findall(section(html, "What each class is taken for"))] == [
        *(0.75, 0.25, 0.0),
        *(0.75, 0.25, 0.0),
        *(0.0, 0.0, 1.0),
    ]
    assert [float(share) for share in cells.findall(section(html, "Where each class can be pushed"))] == [
        *(1.0, 0.5, 0.0),
        *(0.75, 1.0, 0.25),
        *(0.0, 0.0, 1.0),
    ]


def test_the_curve_runs_from_top_left_and_marks_the_worst_class():
    found = section(made(), "Robustness by eps")
    lines = dict(re.findall(r'<polyline(?: class="(\w+)")? points="([^"]*)"', found.partition("<ul")[0]))
    assert lines["worst"] == "44.0,10.0 197.0,152.5 350.0,200.0"
    assert lines["average"] == "44.0,10.0 197.0,73.3 350.0,120.8"
    assert re.findall(r'<text x="[\d.]+" y="217" text-anchor="middle">([^<]*)<', found) == ["0", "8/255", "16/255"]
    assert "dog falls from 100.0 % to 0.0 %" in found
    assert "on 12 images, the same number of each class" in found
    assert re.findall(r'<text class="axis"[^>]*>([^<]*)<', found) == [
        "Linf eps, in units of the pixel range [0, 1]",
        "accuracy, %",
    ]
    key = texts(found.partition('<ul class="key">')[2].partition("</ul>")[0])
    assert key == ["worst class: dog", "average over the classes", "each other class"]


def test_the_lowest_class_shows_all_its_broken_images_the_others_one():
    shown = re.findall(r"<figcaption>(\w+), taken for (\w+)", section(made(), "Images that broke"))
    assert shown == [("dog", "cat"), ("dog", "ship"), ("dog", "ship"), ("cat", "dog")]
    assert section(made(), "Images that broke").count('<img src="data:image/png;base64,') == 12


def test_without_flow_broken_images_or_flags_there_is_no_empty_section():
    html = made(shown=exhibits(flow=None, broken=()))
    assert "Where each class can be pushed" not in html
    assert "Can this evaluation be trusted?" not in html
    assert "None of the images examined." in html


def test_flags_are_told_and_red_ones_come_first():
    green = {"batch-dependent": Flag(0.0, False)}
    assert "All 1 checks passed." in made(report(flags=green))
    html = made(report(flags={**green, "bad-gradient": Flag(0.5, True)}))
    assert "Red: bad-gradient. The accuracies below may be too high." in html


def test_many_classes_show_the_lowest_and_the_largest_confusions():
    count = 30
    labels = np.repeat(np.arange(count), 2)
    predicted = labels.copy()
    predicted[[0, 1, 2]] = [7, 7, 9]  # class 0 lost to 7, half of class 1 to 9
    found = Report(Verdicts(labels, {"clean": predicted}, count), tuple(f"c{number}" for number in range(count)))
    html = made(found, exhibits(curve=np.ones((3, count)), flow=None, broken=()))
    bars = section(html, "Accuracy by class")
    assert "the 10 highest are left out" in bars
    assert re.findall(r'<th scope="row">(c\d+)</th>', bars)[:3] == ["c0", "c1", "c2"]
    assert texts(section(html, "What each class is taken for"))[-6:] == ["c0", "c7", "100.0 %", "c1", "c9", "50.0 %"]


def test_a_class_without_images_is_a_dash():
    labels = np.array([0, 0, 1, 1])
    found = Report(Verdicts(labels, {"clean": labels}, 3), ("cat", "dog", "ship"))
    curve = np.array([[1.0, 1.0, np.nan]] * 3)
    html = made(found, exhibits(curve=curve, broken=()))
    assert re.search(r'<th scope="row">ship</th><td>-</td><td>-</td><td>-</td>', section(html, "Robustness by eps"))
    assert "nan" not in html


def test_names_that_are_markup_are_text():
    names = (TRAP, "dog", "ship")
    found = Report(Verdicts(LABELS, {TRAP: PGD}, 3), names, {TRAP: Flag(1.0, True)})
    html = page(found, exhibits(attack=TRAP), title=TRAP, data=TRAP)
    assert "<img src=x" not in html
    assert html.count("&lt;img src=x onerror=alert(1)&gt;") > 20


def test_without_exhibits_the_page_has_the_verdicts_alone():
    html = page(report(), title="net")
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == [name for name in re.findall(r"<h2>(.*?)</h2>", made()) if name not in FROM_EXHIBITS]
    assert len(headings) == len(re.findall(r"<h2>", made())) - len(FROM_EXHIBITS)


def test_a_subset_is_named_at_the_head():
    html = page(replace(report(), subset_of=450), title="net")
    assert "<dt>images</dt><dd>class-balanced subset of 12 of 450 images</dd>" in html


def test_the_page_says_what_was_audited():
    audited = {"weights": "SHA-256 abc", "command": "fairbench evaluate <x>"}
    html = page(report(), title="net", data="digits", audited=audited)
    found = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert found["data"] == "digits"
    assert found["images"] == "12"
    assert found["threat model"] == "Linf, eps 8/255"
    assert found["weights"] == "SHA-256 abc"
    assert found["command"] == "<code>fairbench evaluate &lt;x&gt;</code>"
    html = page(
        report(), title="net", data="digits", audited={"command": "fairbench evaluate x-y clean,pgd-20 a,<b>-c"}
    )
    listed = re.search(r"<dt>command</dt><dd>(.*?)</dd>", html)[1]
    assert (
        re.sub(r"</?span[^>]*>|<wbr>", "", listed) == "<code>fairbench evaluate x-y clean,pgd-20 a,&lt;b&gt;-c</code>"
    )
    assert '<span class="option">pgd-20</span>' in listed  # no line ends within it
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["date"])
    assert found["versions"].startswith("fairbench ")


def test_a_notebook_shows_a_table_and_names_that_are_markup_as_text():
    found = Report(Verdicts(LABELS, {TRAP: PGD}, 3), (TRAP, "dog", "ship"))
    html = notebook(found)
    assert html.startswith("<div>")
    assert html.count("<tr>") == 3  # the heading, the attack and the union
    assert not re.search("<img|<style|<script", html)


def test_the_page_names_no_address_but_data():
    addresses = re.findall(r'(?:src|href)="([^":]*:)', made())
    assert set(addresses) == {"data:"}
    assert "://" not in made()
    assert "<script" not in made()


AUDITED = {
    "weights": f"SHA-256 {'0123456789abcdef' * 4}",
    "command": "fairbench evaluate a/folder/with/a/long/name/net.pt --dataset digits --eps 0.2 --report x.html",
}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_every_text_is_legible_and_nothing_is_cut_overlaps_or_breaks(visit, tmp_path, width, dark):
    flags = {"bad-gradient": Flag(0.5, True), "batch-dependent": Flag(0.0, False)}
    html = page(report(flags=flags), exhibits(), title="net.safetensors", data="npz:x.npz", audited=AUDITED)
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    seen = visit(tmp_path / "page.html", width=width, dark=dark)
    assert seen.page.evaluate(FAULTS) == []
    assert seen.page.evaluate(CONTRASTS) == []
    assert seen.page.evaluate(FAULTS) == []  # with the details that are open now
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert (seen.errors, seen.requests) == ([], [])


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_it_without_a_complaint_a_request_or_a_sideways_scroll(visit, tmp_path, width, dark):
    html = made(report(names=(TRAP, "dog", "a class with a rather long name")))
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    seen = visit(tmp_path / "page.html", width=width, dark=dark)
    assert (seen.errors, seen.requests) == ([], [])
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert TRAP in seen.page.inner_text("main")
    assert seen.page.locator("img").count() == 12
    assert seen.page.evaluate("[...document.images].every(image => image.naturalWidth === 4)")
    assert "Worst class: dog" in seen.page.inner_text("h1")
    bars = seen.page.eval_on_selector_all("td.bar", "cells => cells.map(cell => cell.getBoundingClientRect().width)")
    assert max(bars) - min(bars) < 1  # one scale for all attacks
    ends = "cells => cells.every(cell => cell.scrollWidth <= cell.clientWidth)"
    assert seen.page.eval_on_selector_all(".bars td", ends)
