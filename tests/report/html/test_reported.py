from __future__ import annotations

from pathlib import Path

from fairbench.leaderboard.published import load_published
from fairbench.registry import methods
from fairbench.report.html.reported import of_method, on_board

PUBLISHED = load_published(Path(__file__).parents[3] / "leaderboards/published/published.csv")


def test_a_row_says_its_data_set_network_attack_and_source():
    found = of_method(PUBLISHED, "dafa")
    assert found["datasets"] == ["CIFAR-10", "CIFAR-100", "STL-10"]
    titles = [heading["title"] for heading in found["headings"]]
    row = dict(zip(titles, found["rows"][0], strict=True))
    assert (row["method, as reported"], row["dataset"]) == ("TRADES+DAFA", "CIFAR-10")
    assert row["reported by"].startswith("DAFA (Lee et al.), ICLR 2024, arXiv 2401.12532")
    assert all(row[title] for title in ("network", "attack", "average %", "worst class %"))


def test_a_board_has_the_rows_of_its_data_set_alone_and_others_none():
    found = on_board(PUBLISHED, "npz:cifar10-exact-micro-train.npz,cifar10-exact-test.npz")
    assert found["datasets"] == ["CIFAR-10"]
    assert len(found["rows"]) == (PUBLISHED["dataset"] == "CIFAR-10").sum()
    assert on_board(PUBLISHED, "cifar100")["datasets"] == ["CIFAR-100"]
    assert on_board(PUBLISHED, "digits") == of_method(PUBLISHED, "absld_one_set") == on_board(None, "cifar10") == {}


def test_what_is_said_to_be_registered_is():
    named = set(PUBLISHED["registered"].dropna())
    assert {"sat", "trades", "dafa", "cfa_trades"} <= named <= set(methods.names())
