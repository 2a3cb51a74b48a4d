"""The page of one leaderboard: its table, its heatmap, and the figures that papers report."""

from __future__ import annotations

import re
from itertools import islice

import pytest
from two_boards import TRAP, UNION

from fairbench.report.html import site
from fairbench.report.html.boards import read_board


def rows(visit):
    return visit.page.locator("#board tbody tr:not([hidden]) th a").all_inner_texts()


def test_the_table_sorts_by_a_click_and_by_the_keyboard(built, visit):
    seen = visit(built.folder / "tiny-v1.html")
    assert rows(seen) == ["fair", "plain", TRAP, "teacher"]
    average = seen.page.get_by_role("button", name="average %")
    average.click()
    heading = seen.page.locator("th", has=average)
    assert (heading.get_attribute("aria-sort"), rows(seen)) == ("descending", ["fair", "plain", TRAP, "teacher"])
    average.focus()
    seen.page.keyboard.press("Enter")
    assert (heading.get_attribute("aria-sort"), rows(seen)) == ("ascending", [TRAP, "plain", "fair", "teacher"])
    seen.page.get_by_role("button", name="ranks 95 %").focus()
    seen.page.keyboard.press("Space")
    assert seen.page.locator("th[aria-sort]").count() == 1
    assert "ranks that a method may truly have" in seen.page.locator("[data-meaning]").inner_text()
    assert (seen.errors, seen.requests) == ([], [])


def test_the_table_filters(built, visit):
    seen = visit(built.folder / "tiny-v1.html")
    seen.page.get_by_label("Search").fill("STEER fai")
    assert rows(seen) == ["fair"]
    assert seen.page.locator("[data-count]").inner_text().startswith("1 of ")
    seen.page.get_by_label("Attack").first.select_option("clean")
    assert seen.page.locator("#board tbody tr:not([hidden])").get_attribute("data-attack") == "clean"
    seen.page.get_by_label("Rows").select_option("run")
    assert rows(seen) == ["fair"] * 3
    seen.page.get_by_label("Search").fill("")
    seen.page.get_by_label("Rows").select_option("")
    assert len(rows(seen)) == 4 + 4 + 1 + 1
    assert seen.errors == []


def test_ranks_order_and_answer_are_those_of_the_chosen_attack(write_board, visit, tmp_path):
    worst = {"fair": {"clean": 0.8, "union": 0.3, "pgd-20": 0.4}, "plain": {"clean": 0.8, "union": 0.2, "pgd-20": 0.5}}
    methods = {
        method: {seed: {attack: [share - seed / 50, 0.9, 0.9] for attack, share in under.items()} for seed in range(3)}
        for method, under in worst.items()
    }
    seen = visit(site.build_site([write_board(tmp_path / "leaderboards/tiny/v1.csv", methods)], tmp_path / "site")[1])

    def shown():
        lead = seen.page.locator(".lead:not([hidden])").inner_text()
        ranks = seen.page.locator("#board tbody tr:not([hidden]) td:first-child").all_inner_texts()
        return lead.split(" leads")[0], list(zip(ranks, rows(seen), strict=True))

    assert shown() == ("fair", [("1", "fair"), ("2", "plain")])
    seen.page.get_by_label("Attack").first.select_option("pgd-20")
    assert shown() == ("plain", [("1", "plain"), ("2", "fair")])
    seen.page.get_by_role("button", name="method", exact=True).click()
    seen.page.get_by_label("Attack").first.select_option("union")
    assert shown() == ("fair", [("1", "fair"), ("2", "plain")])
    seen.page.get_by_label("Checkpoint").select_option("")
    assert seen.page.locator(".lead:not([hidden])").count() == 0


def test_a_red_flag_shows(built, visit):
    seen = visit(built.folder / "tiny-v1.html")
    assert seen.page.locator("tr.red:not([hidden])").count() == 4
    assert seen.page.locator("tr.red:not([hidden]) .badge", has_text="red flag").count() == 4


def test_no_column_of_the_table_is_constant(built, visit):
    page = visit(built.folder / "cifar10-micro-v1.html").page
    columns = """() => { const rows = [...document.querySelectorAll('#board tbody tr:not([hidden])')];
      return [...rows[0].cells].map((cell, i) => [i, rows.map((row) => row.cells[i])]).slice(3)
        .filter(([, cells]) => cells[0].getClientRects().length)
        .filter(([, cells]) => new Set(cells.map((cell) => cell.textContent)).size === 1).length }"""
    assert page.evaluate(columns) == 0
    names = """[...document.querySelectorAll('#board thead th')]
      .filter((heading) => heading.getClientRects().length).map((heading) => heading.innerText)"""
    assert "attack" not in page.evaluate(names)
    page.get_by_label("Attack").first.select_option("")
    assert "attack" in page.evaluate(names)


def test_a_thousand_rows_open_within_two_seconds(write_board, tmp_path, visit):
    """Measured in processor seconds of the browser, which do not depend on the load of the machine."""
    attacks = dict.fromkeys(("clean", "fgsm", "pgd-20", "cw-30", "mim", "square", "fab", "union"), UNION["union"])
    methods = {f"method_{number}": dict.fromkeys(range(3), attacks) for number in range(32)}
    path = write_board(tmp_path / "leaderboards/tiny/v1.csv", methods)
    (tmp_path / "blank.html").write_text("<title>blank</title>", encoding="utf-8")
    _, (name, text) = islice(site.pages([read_board(path)]), 2)
    (tmp_path / name).write_text(text, encoding="utf-8")
    page = visit(tmp_path / "blank.html").page
    meter = page.context.new_cdp_session(page)
    meter.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto((tmp_path / name).as_uri())
    spent = {one["name"]: one["value"] for one in meter.send("Performance.getMetrics")["metrics"]}
    assert page.locator("#board tbody tr").count() == 1024
    assert 0 < spent["TaskDuration"] < 2


def first_screen(visit, path, **how):
    """Open a page; also return a function that says whether an element is inside the first screen."""
    page = visit(path, **how).page
    inside = """(element) => { const box = element.getBoundingClientRect();
      return box.width > 0 && box.left >= 0 && box.right <= innerWidth && box.bottom <= innerHeight; }"""
    return page, lambda locator: locator.evaluate(inside)


@pytest.mark.parametrize("width", [400, 1280])
def test_the_first_screen_says_who_leads_and_shows_rank_one(built, visit, width):
    page, shown = first_screen(visit, built.folder / "tiny-v1.html", width=width)
    assert page.locator(".lead:not([hidden])").inner_text().startswith("fair leads: worst class 38.0")
    row = page.locator("#board tbody tr:not([hidden])").first
    assert [shown(row.locator(cell)) for cell in ("td >> nth=0", "th a", "td >> nth=1")] == [True] * 3
    assert row.locator("td").nth(0).inner_text() == "1"
    assert page.locator("#board thead th").nth(3).inner_text().split() == ["ranks", "95", "%"]
    assert shown(row.locator("td").nth(2))
    assert row.locator("td").nth(2).inner_text() == "1-2"


def test_a_method_page_opens_from_the_board_and_links_back(built, visit):
    seen = visit(built.folder / "index.html")
    seen.page.get_by_role("link", name="tiny").click()
    seen.page.locator("#board").get_by_role("link", name=TRAP).click()
    assert seen.page.get_by_role("heading", level=1).inner_text() == TRAP
    seen.page.get_by_role("link", name="tiny v1").click()
    assert seen.page.locator("#board").is_visible()
    assert seen.errors == []
    assert all(request.startswith("file://") for request in seen.requests)


def test_a_heatmap_follows_its_attack(built, visit):
    seen = visit(built.folder / "cifar10-micro-v1.html")
    seen.page.locator("[data-switch]").select_option("pgd-20")
    assert seen.page.locator("[data-panel]:not([hidden])").get_attribute("data-name") == "pgd-20"


def test_each_row_of_the_heatmap_marks_its_minimum(built):
    text = (built.folder / "tiny-v1.html").read_text(encoding="utf-8")
    heat = text[text.index("Methods by classes") : text.index("Trade-offs")]
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", heat)
    assert rows
    for row in rows:
        cells = re.findall(r'<td class="([^"]*)" style="--share: [\d.]+">(\d+)', row)
        assert [int(share) for classes, share in cells if "least" in classes] == [min(int(share) for _, share in cells)]
    assert "lowest class of the method" in heat
    assert "100 %" in heat


def test_many_classes_are_read_from_beside_the_board(write_board, tmp_path):
    shares = {attack: [0.5 + 0.01 * c for c in range(30)] for attack in ("clean", "union")}
    path = write_board(tmp_path / "leaderboards/wide/v1.csv", {"fair": {0: shares, 1: shares}})
    lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    classes = [i for i, name in enumerate(lines[0]) if re.fullmatch(r"(n_)?class_\d+", name)]
    keys = [lines[0].index(name) for name in ("protocol", "method", "seed", "checkpoint", "attack", "run_id")]
    beside = "".join(",".join(row[i] for i in [*keys, *classes]) + "\n" for row in lines)
    path.with_name("v1.classes.csv").write_text(beside, encoding="utf-8")
    path.write_text(
        "".join(",".join(c for i, c in enumerate(row) if i not in classes) + "\n" for row in lines), encoding="utf-8"
    )
    page = site.build_site([path], tmp_path / "site")[1].read_text(encoding="utf-8")
    heat = page[page.index("Methods by classes") :]
    assert [f">{share}<" in heat for share in (50, 65, 79)] == [True, True, True]


def test_figures_of_papers_stand_apart_and_are_hidden_until_opened(built, visit):
    seen = visit(built.folder / "cifar10-micro-v1.html")
    section = seen.page.locator("section", has=seen.page.get_by_role("heading", name="Reported by papers"))
    table = section.get_by_role("table")
    assert not table.is_visible()
    section.locator("summary").focus()
    seen.page.keyboard.press("Enter")
    assert table.is_visible()
    assert "Not measured here" in section.inner_text()
    assert "CIFAR-100" not in table.inner_text()
    assert section.locator("tbody tr").count() == 152
    assert seen.page.locator("#board tbody tr", has_text="TRADES+CFA").count() == 0
    assert (seen.errors, seen.requests) == ([], [])
    assert "Reported by papers" not in (built.folder / "tiny-v1.html").read_text(encoding="utf-8")
    page = (built.folder / "cifar10-micro-v1/sat.html").read_text(encoding="utf-8")
    assert page.index("Reported by papers") > page.index("Figures</h2>")
    assert "CFA (Wei et al.), CVPR 2023, arXiv 2303.14460, Table 1" in page
    assert "2 figures reported of absld" in (built.folder / "cifar10-micro-v1/absld.html").read_text(encoding="utf-8")
    assert "Reported by papers" not in (built.folder / "tiny-v1/fair.html").read_text(encoding="utf-8")


def test_the_steps_of_a_submission_name_the_suite_and_the_check(built):
    text = (built.folder / "cifar10-micro-v1.html").read_text(encoding="utf-8")
    steps = text[text.index('id="submit"') : text.index("</ol>", text.index('id="submit"'))]
    steps = re.sub(r"</?span[^>]*>", "", steps)
    assert "fairbench results check results/cifar10-micro/NAME" in steps
    assert "fairbench run cifar10-micro --methods NAME --seeds 0,1,2 --publish" in steps
