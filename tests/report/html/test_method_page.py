"""The page of one method on one board."""

from __future__ import annotations

from itertools import islice

from two_boards import ROOT

from fairbench.report.html import method_page, site
from fairbench.report.html.boards import read_board
from fairbench.report.html.submission import submission_steps


def test_a_method_page_shows_what_its_runs_hold(built):
    text = (built.folder / "cifar10-micro-v1/absld.html").read_text(encoding="utf-8")
    for part in (
        "arXiv 2312.05508",
        "absld_temperatures.temperature_rate",
        "code: zhaoshiji123/ABSLD",
        "Run it again",
    ):
        assert part in text, part
    for part in ("temperature_adv by class", "held-out robust accuracy", "airplane", "Where broken images go"):
        assert part in text, part


def test_a_method_without_runs_says_what_is_left_out(built):
    text = (built.folder / "tiny-v1/fair.html").read_text(encoding="utf-8")
    assert "The run folders are not beside this leaderboard" in text
    assert "Not installed" not in text
    assert "A composition" in text
    assert "made from Python, or by no command of fairbench" in text


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


def test_a_method_that_has_become_a_composition_declares_no_settings_of_its_own():
    assert method_page._declared("fair_tat") == {}


def test_a_method_page_says_its_rank_links_its_paper_and_offers_bibtex(built):
    page = (built.folder / "tiny-v1/fair.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "Rank 1 of 3 by the worst class under the union; over new seeds 1 to 2 (95 % interval); no method is" in page
    assert "Rank" not in (built.folder / "tiny-v1/teacher.html").read_text(encoding="utf-8")
    page = (built.folder / "cifar10-micro-v1/absld.html").read_text(encoding="utf-8")
    assert '<a href="https://arxiv.org/abs/2312.05508"' in page
    assert "@inproceedings{zhao2024improving," in page


def test_a_rank_has_its_interval_and_another_budget_none():
    board = read_board(ROOT / "leaderboards/digits/v3.csv")
    (said,) = method_page._places(board, "dafa")
    assert said.startswith(
        "Rank 1 of 29 by the worst class under the union; over new seeds 1 to 12 (95 % interval); no method is better"
    )
    (said,) = method_page._places(board, "faal")
    assert said.startswith("Not ranked: trained with another budget")
    assert method_page._places(board, "teacher") == []


def test_figures_of_one_seed_are_told_from_means_on_a_board_of_five():
    board = read_board(ROOT / "leaderboards/digits/v4.csv")
    assert {name: method_page.method(board, name)["seeds"] for name in ("dafa", "teacher")} == {"dafa": 5, "teacher": 1}
    assert any("--seeds 0,1,2,3,4 --publish" in step["command"] for step in submission_steps(board))


def test_a_rank_under_a_union_of_some_images_stands_beside_that_of_all():
    board = read_board(ROOT / "leaderboards/cifar10-micro/v2.csv")
    interval = "without an interval, which needs three seeds of the method."
    assert method_page._places(board, "trades") == [
        f"Rank 1 of 4 by the worst class under the union, which 4 methods share; {interval}",
        f"Rank 1 of 4 by the worst class under cw-30; {interval}",
    ]
