from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from page_faults import CONTRASTS, FAULTS
from pandas.testing import assert_frame_equal

from fairbench.cli import app
from fairbench.errors import InvalidInput
from fairbench.leaderboard import lookup
from fairbench.leaderboard.board import load_leaderboard
from fairbench.report.html import method_page, site
from fairbench.report.html.boards import file_name, read_board
from fairbench.report.html.pages import MANIFEST

ROOT = Path(__file__).parents[3]
TRAP = "<img src=x onerror=alert(1)>"
UNION = {"clean": [0.9, 0.8, 0.7], "union": [0.6, 0.5, 0.4]}


def scaled(factor):
    return {attack: [round(factor * share, 4) for share in shares] for attack, shares in UNION.items()}


class Links(HTMLParser):
    """The links of a page, the files it would load, its ids, and the ids that its attributes refer to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.ids, self.described = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "a":
            self.links.append(given["href"])
        self.loads += [given[name] for name in ("src", "data", "poster", "action") if name in given]
        self.loads += [given["href"]] if tag == "link" else []
        self.ids |= {given["id"]} if "id" in given else set()
        self.described += [given[name] for name in ("aria-describedby", "aria-labelledby") if name in given]


@pytest.fixture(scope="module")
def made(write_board, tmp_path_factory):
    """A site of a committed board with its runs, and of a hand-made board."""
    folder = tmp_path_factory.mktemp("site")
    methods = {
        "fair": {seed: scaled(1 - 0.05 * seed) for seed in range(3)},
        "plain": {seed: scaled(0.8 - 0.05 * seed) for seed in range(3)},
        TRAP: {0: scaled(0.5)},
        "teacher": {0: scaled(0.9)},
    }
    flagged = write_board(folder / "leaderboards/tiny/v1.csv", methods, policies="steer", flags="steps")
    micro = ROOT / "leaderboards/cifar10-micro/v1.csv"
    written = site.build_site([micro, flagged], folder / "site")
    return folder / "site", written, [micro, flagged]


def test_every_link_leads_to_a_page_and_nothing_is_loaded(made):
    folder, written, _ = made
    assert {path for path in folder.rglob("*") if path.is_file()} == {*written, folder / MANIFEST}
    for path in (path for path in written if path.suffix == ".html"):
        found = Links(path.read_text(encoding="utf-8"))
        for link in found.links:
            if re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", link):
                continue  # the paper: a reader's click may lead to it
            assert not urlsplit(link).scheme
            assert (path.parent / unquote(link)).resolve() in {page.resolve() for page in written}, link
        assert [one for one in found.loads if not one.startswith("data:")] == []
        assert set(found.described) <= found.ids
        text = path.read_text(encoding="utf-8").replace("https://arxiv.org/abs/", "")
        assert "://" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)


def test_building_again_changes_no_byte(made, tmp_path):
    folder, written, boards = made
    for path in site.build_site(boards, tmp_path):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path
    assert len(written) == 1 + 2 * 2 + 3 + 4


def test_what_users_name_is_text_everywhere(made):
    folder, written, _ = made
    pages = [path.read_text(encoding="utf-8") for path in written if path.suffix == ".html"]
    assert not any("<img" in page for page in pages)
    assert sum("&lt;img src=x onerror=alert(1)&gt;" in page for page in pages) == 2
    assert (folder / "tiny-v1" / f"{file_name(TRAP)}.html").exists()


@pytest.mark.parametrize("name", ["../../x", "a/b", ".hidden", "con:1", "+", "a b", "", "é" * 200, "a" * 81])
def test_a_page_of_any_name_stays_in_its_folder(name):
    made = file_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]{0,99}", made)
    assert file_name(f"{name}!") != made


def test_a_page_allows_its_own_script_and_no_other(made):
    _, written, _ = made
    for path in (path for path in written if path.suffix == ".html"):
        text = path.read_text(encoding="utf-8")
        assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='\"", text)
        assert text.count("<script") == 1


def test_a_method_page_shows_what_its_runs_hold(made):
    text = (made[0] / "cifar10-micro-v1/absld.html").read_text(encoding="utf-8")
    for part in (
        "arXiv 2312.05508",
        "absld_temperatures.temperature_rate",
        "code: zhaoshiji123/ABSLD",
        "fairbench run",
    ):
        assert part in text, part
    for part in ("temperature_adv by class", "held-out robust accuracy", "airplane", "Where broken images go"):
        assert part in text, part


def test_a_method_without_runs_says_what_is_left_out(made):
    text = (made[0] / "tiny-v1/fair.html").read_text(encoding="utf-8")
    assert "The run folders are not beside this leaderboard" in text
    assert "Not installed" not in text
    assert "A composition" in text


def test_a_method_that_left_the_board_leaves_the_site(made, write_board, tmp_path):
    methods = {name: {0: scaled(0.5)} for name in ("fair", "plain")}
    board = write_board(tmp_path / "leaderboards/tiny/v1.csv", methods)
    site.build_site([board], tmp_path / "site")
    (tmp_path / "site/tiny-v1/own.html").write_text("of the user's own")
    del methods["plain"]
    write_board(board, methods)
    site.build_site([board], tmp_path / "site")
    assert sorted(path.name for path in (tmp_path / "site/tiny-v1").iterdir()) == ["fair.html", "own.html"]


def test_a_training_is_shown_seed_by_seed(tmp_path, visit):
    found = site.pages([read_board(ROOT / "leaderboards/digits/v3.csv")])
    (tmp_path / "absld.html").write_text(dict(islice(found, 4))["digits-v3/absld.html"], encoding="utf-8")
    seen = visit(tmp_path / "absld.html")
    chooser = seen.page.get_by_role("combobox", name="Seed")
    shown = seen.page.locator("[data-panel=seed]:not([hidden])")
    assert chooser.locator("option").all_inner_texts() == ["0", "1", "2"]
    assert "of seed 0" in shown.locator("figcaption").first.inner_text()
    chooser.focus()
    seen.page.keyboard.press("ArrowDown")
    assert (shown.count(), shown.get_attribute("data-name")) == (1, "1")
    assert "temperature_adv by class of seed 1" in shown.inner_text()
    seen.page.set_viewport_size({"width": 360, "height": 800})
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert (seen.errors, seen.requests) == ([], [])


def test_what_papers_report_shows_on_request_and_apart(made, visit):
    seen = visit(made[0] / "cifar10-micro-v1.html")
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
    assert "Reported by papers" not in (made[0] / "tiny-v1.html").read_text(encoding="utf-8")
    page = (made[0] / "cifar10-micro-v1/sat.html").read_text(encoding="utf-8")
    assert page.index("Reported by papers") > page.index("Figures</h2>")
    assert "CFA (Wei et al.), CVPR 2023, arXiv 2303.14460, Table 1" in page
    assert "2 figures reported of absld" in (made[0] / "cifar10-micro-v1/absld.html").read_text(encoding="utf-8")
    assert "Reported by papers" not in (made[0] / "tiny-v1/fair.html").read_text(encoding="utf-8")


def test_two_boards_of_one_name_are_refused(made):
    board = made[2][1]
    with pytest.raises(InvalidInput, match="two boards are called tiny v1"):
        site.build_site([board, board.parent / "../tiny/v1.csv"], made[0])


def test_the_command_prints_the_first_page(made, tmp_path, capsys):
    app(["leaderboard", "html", str(made[2][1]), "--out", str(tmp_path)], standalone_mode=False)
    assert capsys.readouterr().out == f"{tmp_path / 'index.html'}\n"
    assert len(list(tmp_path.rglob("*.html"))) == 1 + 1 + 4
    assert len(list(tmp_path.rglob("*.csv"))) == 1


def test_all_versions_of_a_suite_are_found_the_newest_first(made, tmp_path):
    for name in ("v2.csv", "v10.csv", "v10.classes.csv", "v3.custom-abc.csv"):
        (tmp_path / "leaderboards/tiny").mkdir(parents=True, exist_ok=True)
        (tmp_path / "leaderboards/tiny" / name).write_bytes(made[2][1].read_bytes())
    assert [path.name for path in lookup.find_boards(["tiny"], tmp_path)] == ["v10.csv", "v2.csv"]


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


def rows(visit):
    return visit.page.locator("#board tbody tr:not([hidden]) th a").all_inner_texts()


def test_the_table_sorts_by_a_click_and_by_the_keyboard(made, visit):
    seen = visit(made[0] / "tiny-v1.html")
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


def test_the_table_filters(made, visit):
    seen = visit(made[0] / "tiny-v1.html")
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


def test_a_red_flag_shows(made, visit):
    seen = visit(made[0] / "tiny-v1.html")
    assert seen.page.locator("tr.red:not([hidden])").count() == 4
    assert seen.page.locator("tr.red:not([hidden]) .badge", has_text="red flag").count() == 4


def test_a_heatmap_follows_its_attack(made, visit):
    seen = visit(made[0] / "cifar10-micro-v1.html")
    seen.page.locator("[data-switch]").select_option("pgd-20")
    assert seen.page.locator("[data-panel]:not([hidden])").get_attribute("data-name") == "pgd-20"


def test_a_method_opens_and_leads_back(made, visit):
    seen = visit(made[0] / "index.html")
    seen.page.get_by_role("link", name="tiny").click()
    seen.page.locator("#board").get_by_role("link", name=TRAP).click()
    assert seen.page.get_by_role("heading", level=1).inner_text() == TRAP
    seen.page.get_by_role("link", name="tiny v1").click()
    assert seen.page.locator("#board").is_visible()
    assert seen.errors == []
    assert all(request.startswith("file://") for request in seen.requests)


@pytest.mark.parametrize("page", ["index.html", "tiny-v1.html", "cifar10-micro-v1.html", "cifar10-micro-v1/absld.html"])
def test_a_phone_shows_a_page_without_scrolling_it_sideways(made, visit, page):
    seen = visit(made[0] / page, width=360)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert (seen.errors, seen.requests) == ([], [])


@pytest.mark.parametrize("system", [False, True], ids=["light", "dark"])
def test_the_theme_follows_the_system_until_it_is_chosen(made, visit, system):
    seen = visit(made[0] / "tiny-v1.html", dark=system)
    page, colour = seen.page, "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(18, 20, 23)"
    assert page.evaluate(colour) == (dark if system else light)
    button = page.locator("#theme")
    for chosen, name in ((light, "light"), (dark, "dark")):
        button.click()
        assert (page.evaluate(colour), button.inner_text()) == (chosen, f"Theme: {name}")
    page.reload()
    assert (page.evaluate(colour), seen.errors) == (dark, [])


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


def luminance(text):
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (int(text[i : i + 2], 16) / 255 for i in (0, 2, 4))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_every_colour_is_told_from_its_ground_in_both_themes(made):
    """WCAG AA: 4.5 for text on the page and on panels, 3 for lines and marks."""
    text = (made[0] / "index.html").read_text(encoding="utf-8")
    blocks = [
        dict(re.findall(r"--(\w+): #(\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    ]
    light, dark, light_lines, dark_lines = blocks[:4]
    for theme in (light | light_lines, light | light_lines | dark | dark_lines):
        for ground in ("page", "panel"):
            for ink in ("ink", "soft", "link"):
                assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)
        for number in range(6):
            assert contrast(theme[f"c{number}"], theme["page"]) >= 3, number
        for name in ("bar", "worst", "soft"):
            assert contrast(theme[name], theme["page"]) >= 3, name


def test_a_method_that_has_become_a_composition_declares_no_settings_of_its_own():
    assert method_page._declared("fair_tat") == {}


LOOKED_AT = ["index.html", "tiny-v1.html", "cifar10-micro-v1.html", "cifar10-micro-v1/absld.html", "tiny-v1/fair.html"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("page", LOOKED_AT)
def test_no_text_is_cut_or_overlaps_and_no_number_breaks(made, visit, page, width, dark):
    seen = visit(made[0] / page, width=width, dark=dark)
    assert seen.page.evaluate(FAULTS) == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert (seen.errors, seen.requests) == ([], [])


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", LOOKED_AT)
def test_every_text_has_the_contrast_of_wcag_aa(made, visit, page, dark):
    assert visit(made[0] / page, dark=dark).page.evaluate(CONTRASTS) == []


def first_screen(visit, path, **how):
    """Open a page; also return a function that says whether an element is inside the first screen."""
    page = visit(path, **how).page
    inside = """(element) => { const box = element.getBoundingClientRect();
      return box.width > 0 && box.left >= 0 && box.right <= innerWidth && box.bottom <= innerHeight; }"""
    return page, lambda locator: locator.evaluate(inside)


@pytest.mark.parametrize("width", [400, 1280])
def test_the_first_screen_says_who_leads_and_shows_rank_one(made, visit, width):
    page, shown = first_screen(visit, made[0] / "tiny-v1.html", width=width)
    assert page.locator(".lead").inner_text().startswith("fair leads: worst class 38.0")
    row = page.locator("#board tbody tr:not([hidden])").first
    assert [shown(row.locator(cell)) for cell in ("td >> nth=0", "th a", "td >> nth=1")] == [True] * 3
    assert row.locator("td").nth(0).inner_text() == "1"
    assert page.locator("#board thead th").nth(3).inner_text().split() == ["ranks", "95", "%"]
    assert shown(row.locator("td").nth(2))
    assert row.locator("td").nth(2).inner_text() == "1-2"


def test_no_column_of_the_table_is_constant(made, visit):
    page = visit(made[0] / "cifar10-micro-v1.html").page
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


def test_each_row_of_the_heatmap_marks_its_minimum(made):
    text = (made[0] / "tiny-v1.html").read_text(encoding="utf-8")
    heat = text[text.index("Methods by classes") : text.index("Trade-offs")]
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", heat)
    assert rows
    for row in rows:
        cells = re.findall(r'<td class="([^"]*)" style="--share: [\d.]+">(\d+)', row)
        assert [int(share) for classes, share in cells if "least" in classes] == [min(int(share) for _, share in cells)]
    assert "lowest class of the method" in heat
    assert "100 %" in heat


def test_the_index_says_who_leads_each_board(made):
    text = (made[0] / "index.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert [line.split(":")[0] for line in re.findall(r"<p>([^<]*leads[^<]*)</p>", text)] == [
        "absld leads",
        "fair leads",
    ]


def test_the_index_counts_methods_and_marks_earlier_versions():
    boards = [read_board(ROOT / f"leaderboards/cifar10-micro/v{number}.csv") for number in (2, 1)]
    text = dict(islice(site.pages(boards), 1))["index.html"].replace("\u00a0", " ")
    newer, older = text.split("<li>")[1:]
    assert "earlier version" not in newer
    assert "earlier version" in older
    assert "No method leads: the worst class of each of the 4 methods has 0.0 % (95 % CI 0.0 to 25.9)." in newer
    assert "9980 test images (200 of them under the union); 4 methods, one seed" in newer
    assert "9980 test images; 2 methods, one seed" in older
    assert "Docs" not in text


def test_pages_lead_back_to_a_documentation_that_has_them(write_board, tmp_path):
    board = write_board(tmp_path / "leaderboards/tiny/v1.csv", {"fair": {0: scaled(0.5)}})
    written = site.build_site([board], tmp_path / "docs" / "boards", home="../index.html")
    pages = [path for path in written if path.suffix == ".html"]
    assert len(pages) == 3
    for path in pages:
        docs = next(link for link in Links(path.read_text(encoding="utf-8")).links if link.endswith("../index.html"))
        assert (path.parent / docs).resolve() == (tmp_path / "docs" / "index.html").resolve()


def test_a_method_page_says_its_rank_links_its_paper_and_offers_bibtex(made):
    page = (made[0] / "tiny-v1/fair.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "Rank 1 of 3 by the worst class under the union; over new seeds 1 to 2 (95 % interval); no method is" in page
    assert "Rank" not in (made[0] / "tiny-v1/teacher.html").read_text(encoding="utf-8")
    page = (made[0] / "cifar10-micro-v1/absld.html").read_text(encoding="utf-8")
    assert '<a href="https://arxiv.org/abs/2312.05508"' in page
    assert "@inproceedings{zhao2024improving," in page


def test_a_rank_has_its_interval_and_another_budget_none():
    board = read_board(ROOT / "leaderboards/digits/v3.csv")
    assert method_page._place(board, "dafa").startswith(
        "Rank 1 of 29 by the worst class under the union; over new seeds 1 to 12 (95 % interval); no method is better"
    )
    assert method_page._place(board, "faal").startswith("Not ranked: trained with another budget")
    assert method_page._place(board, "teacher") == ""


def test_the_csv_has_every_row_of_the_board_and_its_classes(made):
    for board, name in zip(made[2], ("cifar10-micro-v1", "tiny-v1"), strict=True):
        assert_frame_equal(load_leaderboard(made[0] / f"{name}.csv"), load_leaderboard(board))


def test_the_steps_of_a_submission_name_the_suite_and_the_check(made):
    text = (made[0] / "cifar10-micro-v1.html").read_text(encoding="utf-8")
    steps = text[text.index('id="submit"') : text.index("</ol>", text.index('id="submit"'))]
    steps = re.sub(r"</?span[^>]*>", "", steps)
    assert "fairbench results check results/cifar10-micro/NAME" in steps
    assert "fairbench run cifar10-micro --methods NAME --seeds 0,1,2 --publish" in steps
