"""The files of a site: links, names, versions, and what a later build removes."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import islice
from urllib.parse import unquote, urlsplit

import pytest
from pandas.testing import assert_frame_equal
from two_boards import ROOT, TRAP, scaled

from fairbench.cli import app
from fairbench.errors import InvalidInput
from fairbench.leaderboard import lookup
from fairbench.leaderboard.board import load_leaderboard
from fairbench.report.html import site
from fairbench.report.html.boards import file_name, read_board
from fairbench.report.html.pages import MANIFEST


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


def test_every_link_leads_to_a_page_and_nothing_is_loaded(built):
    folder, written, _ = built
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


def test_building_again_changes_no_byte(built, tmp_path):
    folder, written, boards = built
    for path in site.build_site(boards, tmp_path):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path
    assert len(written) == 1 + 2 * 2 + 3 + 4


def test_names_that_users_choose_are_shown_as_text(built):
    folder, written, _ = built
    pages = [path.read_text(encoding="utf-8") for path in written if path.suffix == ".html"]
    assert not any("<img" in page for page in pages)
    assert sum("&lt;img src=x onerror=alert(1)&gt;" in page for page in pages) == 2
    assert (folder / "tiny-v1" / f"{file_name(TRAP)}.html").exists()


@pytest.mark.parametrize("name", ["../../x", "a/b", ".hidden", "con:1", "+", "a b", "", "é" * 200, "a" * 81])
def test_a_page_of_any_name_stays_in_its_folder(name):
    part = file_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]{0,99}", part)
    assert file_name(f"{name}!") != part


def test_a_page_allows_its_own_script_and_no_other(built):
    _, written, _ = built
    for path in (path for path in written if path.suffix == ".html"):
        text = path.read_text(encoding="utf-8")
        assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='\"", text)
        assert text.count("<script") == 1


def test_a_method_that_left_the_board_leaves_the_site(built, write_board, tmp_path):
    methods = {name: {0: scaled(0.5)} for name in ("fair", "plain")}
    board = write_board(tmp_path / "leaderboards/tiny/v1.csv", methods)
    site.build_site([board], tmp_path / "site")
    (tmp_path / "site/tiny-v1/own.html").write_text("of the user's own")
    del methods["plain"]
    write_board(board, methods)
    site.build_site([board], tmp_path / "site")
    assert sorted(path.name for path in (tmp_path / "site/tiny-v1").iterdir()) == ["fair.html", "own.html"]


def test_two_boards_of_one_name_are_refused(built):
    board = built.boards[1]
    with pytest.raises(InvalidInput, match="two boards are called tiny v1"):
        site.build_site([board, board.parent / "../tiny/v1.csv"], built.folder)


def test_the_command_prints_the_first_page(built, tmp_path, capsys):
    app(["leaderboard", "html", str(built.boards[1]), "--out", str(tmp_path)], standalone_mode=False)
    assert capsys.readouterr().out == f"{tmp_path / 'index.html'}\n"
    assert len(list(tmp_path.rglob("*.html"))) == 1 + 1 + 4
    assert len(list(tmp_path.rglob("*.csv"))) == 1


def test_all_versions_of_a_suite_are_found_the_newest_first(built, tmp_path):
    for name in ("v2.csv", "v10.csv", "v10.classes.csv", "v3.custom-abc.csv"):
        (tmp_path / "leaderboards/tiny").mkdir(parents=True, exist_ok=True)
        (tmp_path / "leaderboards/tiny" / name).write_bytes(built.boards[1].read_bytes())
    assert [path.name for path in lookup.find_boards(["tiny"], tmp_path)] == ["v10.csv", "v2.csv"]


def test_the_index_says_who_leads_each_board(built):
    text = (built.folder / "index.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert [line.split(":")[0] for line in re.findall(r"<p>([^<]*leads[^<]*)</p>", text)] == [
        "absld leads",
        "fair leads",
    ]


def test_the_csv_has_every_row_of_the_board_and_its_classes(built):
    for board, name in zip(built.boards, ("cifar10-micro-v1", "tiny-v1"), strict=True):
        assert_frame_equal(load_leaderboard(built.folder / f"{name}.csv"), load_leaderboard(board))


def test_the_index_counts_methods_and_marks_earlier_versions():
    boards = [read_board(ROOT / f"leaderboards/cifar10-micro/v{number}.csv") for number in (2, 1)]
    text = dict(islice(site.pages(boards), 1))["index.html"].replace("\u00a0", " ")
    newer, older = text.split("<li>")[1:]
    assert "earlier version" not in newer
    assert "earlier version" in older
    union = "No method leads: the worst class of each of the 4 methods has 0.0 % (95 % CI 0.0 to 25.9)."
    assert f"<p>Under union, 200 images: {union}</p>" in newer
    assert "<p>Under cw-30, 9980 images: trades leads: worst class" in newer
    assert "9980 test images (200 of them under the union); 4 methods, 1 seed" in newer
    assert "9980 test images; 2 methods, 1 seed" in older
    assert "Docs" not in text


def test_pages_lead_back_to_a_documentation_that_has_them(write_board, tmp_path):
    board = write_board(tmp_path / "leaderboards/tiny/v1.csv", {"fair": {0: scaled(0.5)}})
    written = site.build_site([board], tmp_path / "docs" / "boards", home="../index.html")
    pages = [path for path in written if path.suffix == ".html"]
    assert len(pages) == 3
    for path in pages:
        docs = next(link for link in Links(path.read_text(encoding="utf-8")).links if link.endswith("../index.html"))
        assert (path.parent / docs).resolve() == (tmp_path / "docs" / "index.html").resolve()
