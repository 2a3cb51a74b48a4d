from __future__ import annotations

import json

import pytest

from fairbench.errors import CorruptFile
from fairbench.report.html.pages import MANIFEST, write_pages

FIRST = {"index.html": "all", "a.html": "a", "a/x.html": "x", "a/y.html": "y", "b.html": "b", "b/z.html": "z"}


def _files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}


def test_pages_that_are_no_part_of_the_site_any_more_are_removed_with_their_folder(tmp_path):
    assert write_pages(FIRST, tmp_path) == [tmp_path / name for name in FIRST]
    assert _files(tmp_path) == set(FIRST)
    left = {"index.html": "fewer", "a.html": "a", "a/x.html": "x"}
    write_pages(left, tmp_path)
    assert _files(tmp_path) == set(left)
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == "fewer"
    assert not (tmp_path / "b").exists()


def test_what_a_build_did_not_write_is_never_removed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    site = tmp_path / "site"
    write_pages(FIRST, site)
    (site / "b" / "notes.txt").write_text("of the user's own")
    (site / "CNAME").write_text("example.org")
    (site / "own.html").write_text("of the user's own")
    (site / "a/x.html").write_text("edited by hand")
    (site / "b.html").unlink()
    (outside / "b.html").write_text("b")
    (site / "b.html").symlink_to(outside / "b.html")
    (site / "a/y.html").unlink()
    write_pages({"index.html": "all"}, site)
    assert _files(site) == {"index.html", "a/x.html", "own.html", "CNAME", "b/notes.txt", "b.html"}
    assert (outside / "b.html").read_text() == "b"
    write_pages({"index.html": "all"}, site)
    assert (site / "a/x.html").exists()


def test_a_folder_that_became_a_link_is_not_followed(tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    write_pages(FIRST, site)
    (site / "a").rename(elsewhere)
    (site / "a").symlink_to(elsewhere)
    write_pages({"index.html": "all"}, site)
    assert _files(elsewhere) == {"x.html", "y.html"}


def test_a_build_that_was_killed_leaves_no_page_unnamed(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("fairbench.report.html.pages._remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        write_pages({"index.html": "all"}, tmp_path)
        with pytest.raises(KeyboardInterrupt):
            write_pages({"other.html": "other"}, tmp_path)
    write_pages({"last.html": "last"}, tmp_path)
    assert _files(tmp_path) == {"last.html"}


@pytest.mark.parametrize(
    "content",
    ["[]", '{"pages": ["a.html"]}', '{"pages": {"a.html": 1}}', "{", '{"pages": {"../a.html": "x"}}']
    + [json.dumps({"pages": {name: "x"}}) for name in ("/a.html", "a/../../b.html", "a.txt", "a/b/c.html", ".a.html")],
)
def test_a_manifest_that_is_none_is_named_and_nothing_is_written(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(CorruptFile, match=MANIFEST):
        write_pages({"index.html": "all"}, tmp_path)
    assert _files(tmp_path) == set()
