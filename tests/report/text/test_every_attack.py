from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fairbench.leaderboard.columns import COSTS, FIGURES
from fairbench.report.text.every_attack import every_attack


def _rows(method: str, worst: dict[str, float], **changes: Any) -> list[dict[str, Any]]:
    """Rows of a method under `clean` and `union`; `worst` maps a seed to its worst class under the union."""
    values = np.array(list(worst.values()))
    seeds = {**worst, "mean": values.mean(), "std": values.std(ddof=1) if len(values) > 1 else np.nan}
    rows = []
    for checkpoint in ("best", "last"):
        for seed, value in seeds.items():
            for attack in ("clean", "union"):
                row = dict.fromkeys([*FIGURES, *COSTS], np.nan)
                row |= {"provenance": "code", "architecture": "net", "recipe_hash": "r", "selection": "validation"}
                row |= {"flags": "none", "seeds": len(worst)}
                row |= {"quick": False, "command": "fairbench run tiny"}
                row |= {"suite": "tiny", "dataset": "digits", "protocol": "abc", "n": 500}
                row |= {"method": method, "checkpoint": checkpoint, "seed": seed, "attack": attack}
                share = 0.9 if attack == "clean" else value
                share = share if checkpoint == "best" else 0.123
                row |= {"average": share, "average_lo": share - 0.1, "average_hi": share + 0.05}
                row |= {
                    "worst": share,
                    "worst_lo": share - 0.1,
                    "worst_hi": share + 0.05,
                    "nsd": 0.0 if seed == "std" else 0.25,
                }
                row |= {"worst_class": pd.NA if seed in ("mean", "std") else "eight"}
                rows.append({**row, **changes})
    return rows


def _board(*groups: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for group in groups for row in group])


def _cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_a_board_without_rows_over_seeds_is_ranked_by_its_runs():
    board = _board(_rows("sat", {"0": 0.3, "1": 0.4}), _rows("absld", {"0": 0.4, "1": 0.6}))
    of_runs = every_attack(board[~board["seed"].isin(["mean", "std"])])
    assert [cells[1] for cells in _cells(of_runs) if cells[1]] == ["absld", "sat"]
    assert _cells(of_runs)[1][4:6] == ["50.0 ± 14.1", "50.0 ± 14.1"]


def test_methods_are_ranked_by_their_worst_class_under_the_union_and_teachers_come_last():
    board = _board(
        _rows("teacher", {"0": 0.8}), _rows("sat", {"0": 0.3}), _rows("absld", {"0": 0.5}), _rows("rslad", {"0": 0.4})
    )
    text = every_attack(board)
    assert text.splitlines()[0].strip() == "tiny: dataset digits, protocol abc, 1 seed, n = 500"
    assert [(cells[0], cells[1]) for cells in _cells(text) if cells[1]] == [
        ("1", "absld"),
        ("2", "rslad"),
        ("3", "sat"),
        ("", "teacher"),
    ]
    assert _cells(text)[:2] == [
        ["1", "absld", "best", "clean", "90.0 [80.0, 95.0]", "90.0 [80.0, 95.0]", "eight", "0.250"],
        ["", "", "", "union", "50.0 [40.0, 55.0]", "50.0 [40.0, 55.0]", "eight", "0.250"],
    ]
    assert "12.3" not in text


def test_several_seeds_show_mean_and_deviation():
    text = every_attack(_board(_rows("sat", {"0": 0.3, "1": 0.5})))
    assert "2 seeds" in text.splitlines()[0]
    # the sample deviation of 30 and 50 is 14.1
    assert _cells(text)[1] == ["", "", "", "union", "40.0 ± 14.1", "40.0 ± 14.1", "eight", "0.250 ± 0.000"]


def test_a_red_flag_stands_behind_the_name():
    assert "sat (red flag: large-eps, more-steps)" in every_attack(
        _board(_rows("sat", {"0": 0.3}, flags="large-eps;more-steps"))
    )
    for flags in ("none", pd.NA):
        assert "red" not in every_attack(_board(_rows("sat", {"0": 0.3}, flags=flags)))


def test_quick_and_custom_boards_have_no_ranks():
    quick = every_attack(_board(_rows("sat", {"0": 0.3}, quick=True)))
    assert "quick: a smoke test, not ranked" in quick
    custom = every_attack(_board(_rows("sat", {"0": 0.3}, command="fairbench run --set model=vgg16")), ranked=False)
    assert "model=vgg16, not ranked" in custom
    for text in (quick, custom):
        assert [cells[0] for cells in _cells(text)] == ["", ""]


def test_names_are_shown_as_they_are():
    odd = "[/b][red]cat"
    rows = _rows("sat[bold]", {"0": 0.3}, suite="[x]", dataset="npz:[y].npz")
    for row in rows:
        if row["seed"] == "0":
            row["worst_class"] = odd
    text = every_attack(_board(rows))
    assert "[x]: dataset npz:[y].npz" in text
    assert [_cells(text)[0][1], _cells(text)[0][6]] == ["sat[bold]", odd]


def test_a_missing_figure_is_a_dash_and_a_missing_deviation_is_left_out():
    rows = _rows("natural", {"0": 0.0, "1": 0.0})
    for row in rows:
        row["nsd"] = np.nan
    text = every_attack(_board(rows))
    assert _cells(text)[1] == ["", "", "", "union", "0.0 ± 0.0", "0.0 ± 0.0", "eight", "-"]
    means = [row for row in _rows("sat", {"0": 0.3, "1": 0.5}) if row["seed"] == "mean"]
    assert _cells(every_attack(_board(means)))[1] == ["", "", "", "union", "40.0", "40.0", "", "0.250"]


def test_where_an_attack_covers_a_part_of_the_images_each_row_says_how_many():
    rows = _rows("sat", {"0": 0.3})
    for row in rows:
        row["n"] = 500 if row["attack"] == "clean" else 20
    assert [cells[-1] for cells in _cells(every_attack(_board(rows)))] == ["500", "20"]
