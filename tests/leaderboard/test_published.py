from __future__ import annotations

import os
from pathlib import Path

import pytest

from fairbench.errors import CorruptFile, Missing
from fairbench.leaderboard.published import find_published, load_published, registered_as, reported_on

FILE = Path(__file__).parents[2] / "leaderboards" / "published" / "published.csv"


def test_the_committed_figures_have_sources_and_are_percent():
    published = load_published(FILE)
    assert published[["source", "venue", "table", "method", "attack", "avg"]].notna().all(axis=None)
    assert published["avg"].between(1, 100).all()  # a fraction would be below
    both = published[published["worst"].notna()]
    assert (both["worst"] <= both["avg"]).all()
    assert not published.duplicated().any()
    quoted = published[published["source"] == "FERD note"]
    assert quoted["note"].str.startswith("SECONDARY").all()


def test_rows_are_found_by_data_set_and_attack():
    published = load_published(FILE)
    assert set(reported_on(published, "cifar10")["dataset"]) == {"CIFAR-10"}
    assert set(reported_on(published, "cifar10", "autoattack")["attack"]) == {"AutoAttack"}
    assert set(reported_on(published, "cifar10", "pgd-20")["attack"]) == {"PGD-20 (eps 8/255, step 2/255)"}
    assert reported_on(published, "digits").empty
    files = "npz:cifar10-exact-micro-train.npz,cifar10-exact-test.npz"
    assert reported_on(published, files).equals(reported_on(published, "cifar10"))
    assert set(reported_on(published, "npz:my-cifar100.npz")["dataset"]) == {"CIFAR-100"}
    assert reported_on(published, "npz:mycifar10.npz").empty


def test_rows_are_found_by_what_they_are_registered_as():
    published = load_published(FILE)
    assert set(registered_as(published, "cfa_trades")["method"]) == {"TRADES+CFA"}
    assert registered_as(published, "absld_one_set").empty


def test_the_repository_of_trix_reports_eleven_methods_clean_and_under_autoattack():
    published = load_published(FILE)
    rows = published[published["source"] == "TRIX code repository (Medi et al.)"]
    assert len(rows) == 22
    assert set(rows["attack"]) == {"clean", "AutoAttack"}
    assert rows["note"].str.contains("over 5 seeds").all()
    robust = rows[rows["attack"] == "AutoAttack"].set_index("registered")
    assert robust.loc["trix", ["avg", "worst"]].tolist() == [48.80, 32.64]
    assert robust.loc["absld", ["avg", "worst"]].tolist() == [49.00, 31.22]
    assert set(robust.index.dropna()) == {
        *("trades", "frl", "bat", "wat", "fair_tat", "dafa", "absld", "trix", "codat", "ham")
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("source,arxiv", "source,url", "row 1: expected the columns"),
        (",46.7,", ",146.7,", "row 3, column 'avg': '146.7' is out of range"),
        (",20.1,", ",low,", "row 3, column 'worst': 'low' is out of range"),
        (",46.7,", ",,", "row 3, column 'avg': empty"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, old, new, message):
    path = tmp_path / "published.csv"
    path.write_text(FILE.read_text().replace(old, new, 1))
    with pytest.raises(CorruptFile, match=message) as caught:
        load_published(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_file_is_looked_for_below_the_root_first(tmp_path, monkeypatch):
    own = tmp_path / "leaderboards" / "published" / "published.csv"
    assert find_published(tmp_path).samefile(FILE)
    own.parent.mkdir(parents=True)
    own.write_bytes(FILE.read_bytes())
    assert find_published(tmp_path) == own
    with pytest.raises(Missing, match="no such file"):
        load_published(tmp_path / "nothing.csv")


@pytest.mark.parametrize("odd", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_a_pipe_a_device_and_a_folder_are_no_figures(tmp_path, odd):
    path = tmp_path / "leaderboards" / "published" / "published.csv"
    path.parent.mkdir(parents=True)
    odd(path)
    assert find_published(tmp_path).samefile(FILE)
    with pytest.raises(Missing, match="cannot be read"):
        load_published(path)


def test_figures_have_a_size(tmp_path, monkeypatch):
    monkeypatch.setattr("fairbench.leaderboard.published.MAX_BYTES", 100)
    with pytest.raises(CorruptFile, match="larger than the 100 bytes allowed"):
        load_published(FILE)
