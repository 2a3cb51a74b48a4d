from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from stored import build_board, run_spec, store

from fairbench.errors import InvalidInput
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.comparison import compare_rows
from fairbench.report.text.board import compared, rows_as_json, show_board, shown_after_a_run
from fairbench.suites.sections import Selection

LABELS = np.repeat([0, 1], 50)


def _verdicts(cats: int, dogs: int) -> dict[str, np.ndarray]:
    right = (np.arange(50) < np.array([[cats], [dogs]])).ravel()
    return {"best/clean": LABELS, "best/pgd-20": np.where(right, LABELS, 1 - LABELS), "last/clean": LABELS}


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> Path:
    """Two methods over three seeds, their teacher, a red flag, and an oracle beside them."""
    root = tmp_path_factory.mktemp("board")
    for seed in range(3):
        for method, dogs in (("sat", (20, 21, 22)), ("a|b", (31, 30, 32))):
            red = method == "sat" and seed == 1
            flags = {"best": {"large-eps": {"value": 0.1, "red": red}}}
            spec = run_spec(method, seed)
            store(root / "results", spec, _verdicts(45, dogs[seed]), labels=LABELS, flags=flags)
    store(root / "results", run_spec("trades", role="teacher"), _verdicts(40, 42), labels=LABELS)
    chosen = run_spec("sat", selection=Selection(rule="test"), custom=True, protocol="a2")
    store(root / "results", chosen, _verdicts(45, 35), labels=LABELS)
    return next(path for path in build_board(root) if path.name == "v1.csv")


def test_a_board_of_a_hundred_classes_is_shown_without_a_warning(tmp_path):
    labels = np.repeat(np.arange(100), 2)
    robust = np.where(np.arange(200) % 3 > 0, labels, (labels + 1) % 100)
    for method in ("sat", "absld"):
        verdicts = {"best/clean": labels, "best/pgd-20": robust, "last/clean": labels}
        store(tmp_path / "results", run_spec(method), verdicts, labels=labels, names=[str(n) for n in range(100)])
    teacher = run_spec("trades", role="teacher")
    store(tmp_path / "results", teacher, verdicts, labels=labels, names=[str(n) for n in range(100)])
    (path,) = (path for path in build_board(tmp_path) if path.name == "v1.csv")
    assert path.with_name("v1.classes.csv").exists()
    shown = show_board(path, base="sat")
    assert "2 methods, 1 seed, n = 200" in shown
    assert "the teacher has" not in shown  # a hundred figures
    assert "0 +66 " in shown  # every third image is wrong: one of the two images of 67 classes
    assert "Class +N" in shown
    assert "train s" in show_board(path, cost=True)
    whole = show_board(path, attack="all")
    assert "0 +66 " in whole
    assert "0 +99 " in whole  # every clean image is right
    assert "Class +N" in whole


def test_the_title_counts_the_seeds_of_each_method(tmp_path):
    for method, seeds in (("sat", 1), ("trades", 3)):
        for seed in range(seeds):
            store(tmp_path / "results", run_spec(method, seed), _verdicts(45, 20), labels=LABELS)
    store(tmp_path / "results", run_spec("trades", 7, role="teacher"), _verdicts(45, 20), labels=LABELS)
    (path,) = (path for path in build_board(tmp_path) if path.name == "v1.csv")
    ranked, costs, whole = (show_board(path, **view) for view in ({}, {"cost": True}, {"attack": "all"}))
    for shown in (ranked, costs, whole):
        assert ", 1 to 3 seeds, n = 100" in " ".join(shown.split())


def test_a_ranking_shows_spread_places_flags_oracle_and_teacher(board):
    lines = show_board(board, format_="markdown", base="sat", classes=True).splitlines()
    assert "ranked by worst under union, best checkpoint" in lines[0]
    assert "2 methods, 3 seeds, n = 100" in lines[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines if line.startswith("|")]
    assert cells[0] == [
        *["\\#", "ranks 95 %", "new images", "behind best", "method", "seeds", "clean %", "average %", "worst class %"],
        *["class", "true worst %", "NSD", "oracle worst %", "relative", "0 %", "1 %", "red flags"],
    ]
    first, second, teacher = cells[2:]
    # 62, 64 and 66 of a hundred for the dogs; relative to sat's 42: 20 / 42 + 10 / 66 = 0.6277...
    # The deviations of the dogs are all 2 points: told apart over seeds, not on fifty other dogs.
    assert first[:6] == ["1", "1-1", "1-2", "no", "a\\|b", "3"]
    assert first[6:10] == ["100.0", "76.0 ± 1.0", "62.0 ± 2.0", "dog"]
    assert first[12:] == ["", "+0.628", "90.0", "62.0", "none"]
    assert second[:5] == ["2", "2-2", "1-2", "seeds", "sat"]
    assert second[8] == "42.0 ± 2.0"
    assert second[12:] == ["70.0", "+0.000", "90.0", "42.0", "large-eps"]
    assert teacher[:6] == ["", "", "", "", "teacher", "1"]
    assert teacher[8].startswith("80.0 \\[")
    notes = "\n".join(line for line in lines[1:] if not line.startswith("|"))
    assert "Smallest detectable difference" in notes
    assert "over new seeds, with the test images held fixed" in notes
    assert "optimism" in notes
    assert "the teacher has 0: 80.0, 1: 84.0 %" in notes


def test_figures_of_an_oracle_stay_out_of_the_measured_columns(board):
    lines = show_board(board.with_name("v1.custom-a2.csv"), format_="markdown").splitlines()
    (row,) = [line for line in lines if "| sat" in line]
    cells = [cell.strip() for cell in row.strip("|").split(" |")]
    assert cells[:2] == ["", "sat"]
    assert cells[4:6] == ["oracle", "oracle"]
    assert cells[7:9] == ["", ""] or cells[7] == ""
    assert "70.0" in cells
    assert "settings of its own, not ranked" in lines[0]


def test_a_ranking_as_values(board):
    rows = list(csv.DictReader(io.StringIO(show_board(board, format_="csv"))))
    assert [(row["rank"], row["method"]) for row in rows] == [("1", "a|b"), ("2", "sat"), ("", "teacher")]
    found = json.loads(show_board(board, format_="json", by="average"))
    assert (found["by"], found["oracle"]) == ("average", {"sat": 0.7})
    assert [row["behind_best"] for row in found["ranking"]] == ["no", "seeds", None]
    assert [(row["rank_lo"], row["rank_hi"]) for row in found["ranking"]] == [(1, 1), (2, 2), (None, None)]
    assert found["ranking"][1]["worst"] == pytest.approx(0.42)
    assert set(found["detectable"]) == {"average", "class", "worst", "worst at five seeds"}
    assert len(json.loads(rows_as_json(board))) == len(board.read_text().splitlines()) - 1


def test_what_training_costs_over_a_base(board):
    text = show_board(board, cost=True, base="sat", format_="markdown")
    # a run of seed s took 2 + s seconds
    assert "| sat | 3 | 3.0 ± 1.0 | 1.00× | 100 | 1.00× | 90 | 1.00× | 1e+03 | 1.00× | 12.3 | 1.00× |" in text
    assert "| teacher | 1 | 2.0 | 0.67× |" in text
    assert "/ sat" not in show_board(board, cost=True, format_="markdown")


def test_costs_whose_deviation_is_not_on_the_board_are_shown_without_it(board, tmp_path):
    rows = load_leaderboard(board)
    rows = rows[rows["seed"] == "mean"].copy()
    rows.loc[rows["method"] == "sat", "flops"] = np.nan
    path = tmp_path / "tiny" / "v1.csv"
    path.parent.mkdir()
    rows.to_csv(path, index=False)
    for base in (None, "sat"):
        shown = show_board(path, cost=True, base=base)
        assert "nan" not in shown
        assert "±" not in shown


def test_published_figures_are_a_table_of_their_own(board):
    text = show_board(board, published=board.parent, format_="markdown")
    assert "Published figures on npz:train.npz,test.npz: 0 rows" in text
    assert json.loads(show_board(board, published=board.parent, format_="json"))["published"] == []
    with pytest.raises(InvalidInput, match="--papers has no csv"):
        show_board(board, published=board.parent, format_="csv")


def test_every_attack_is_a_table_of_its_own(board):
    text = show_board(board, attack="all")
    assert "pgd-20" in text
    assert text.endswith(str(board))
    with pytest.raises(InvalidInput, match="--attack all"):
        show_board(board, attack="all", cost=True)


def test_a_run_ends_with_a_ranking_the_answer_and_the_next_commands(board, tmp_path):
    lines = shown_after_a_run(board).splitlines()
    assert "ranked by worst under union" in lines[0]
    assert "a|b leads: worst class 62.0 ± 2.0 %; over seeds, the other is significantly behind." in lines
    root = board.parents[2]
    assert f"Next: fairbench leaderboard compare 'a|b' sat tiny --out {root}   class by class" in lines
    assert f"Next: fairbench leaderboard show tiny --attack all --out {root}   every attack" in lines
    assert lines[-1] == str(board)
    store(tmp_path / "results", run_spec("sat"), _verdicts(45, 20), labels=LABELS)
    (single,) = build_board(tmp_path)
    text = shown_after_a_run(single)
    # Clopper-Pearson bounds of 20 of 50 at level 1 - 0.05 / 2: two classes, and a run of the older schema
    assert [line for line in text.splitlines() if line.startswith("sat: ")] == [
        "sat: worst class 40.0 % (95 % CI 24.8 to 56.8); no other method is ranked."
    ]
    assert "the same command with --seeds 0,1,2" in text


def test_a_comparison_in_every_format(board):
    found = compare_rows(board, "a|b", "sat", seed="1")
    text = compared(found, "markdown")
    assert "| class dog | 60.0 | 42.0 | +18.0 |" in text
    assert "McNemar" in text
    rows = list(csv.DictReader(io.StringIO(compared(found, "csv"))))
    assert [row["figure"] for row in rows] == ["worst", "average", "class cat", "class dog"]
    assert [row["better"] for row in rows] == ["A", "A", "", "A"]
    whole = json.loads(compared(found, "json"))
    assert (whole["unit"], whole["seeds"], set(whole["detectable"])) == ("images", ["1"], {"average", "class"})
    assert whole["differences"][0]["raw"] <= whole["differences"][0]["p"]
    assert whole["differences"][3]["difference"] == pytest.approx(0.18)
    over_seeds = compared(compare_rows(board, "a|b", "sat"), "table")
    assert "a|b is better on" in over_seeds
    assert "Relative score of A on B" in over_seeds


def test_a_union_of_some_images_stands_beside_the_strongest_attack_on_all():
    board = Path(__file__).parents[3] / "leaderboards/cifar10-micro/v2.csv"
    lines = show_board(board, format_="markdown").splitlines()
    assert "n = 200 of 9980 test images; ranked by worst under union" in lines[0]
    assert sum(line.startswith("The union covers 200 of 9980 test images. Under cw-30,") for line in lines) == 1
    assert "The union covers 200 of 9980 test images. Under cw-30," in " ".join(shown_after_a_run(board).split())
    lines = show_board(board, attack="cw-30", format_="markdown").splitlines()
    assert "n = 9980; ranked by worst under cw-30" in lines[0]
    assert not [line for line in lines if "The union covers" in line]
