from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fairbench.evaluation.report import Report
from fairbench.evaluation.verdicts import Verdicts
from fairbench.leaderboard.columns import COSTS, FIGURES
from fairbench.report.text import table


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
                row |= {"suite": "tiny", "dataset": "digits", "protocol": "abc", "n": 500, "quick": False}
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
    of_runs = table.leaderboard(board[~board["seed"].isin(["mean", "std"])])
    assert [cells[1] for cells in _cells(of_runs) if cells[1]] == ["absld", "sat"]
    assert _cells(of_runs)[1][4:6] == ["50.0 ± 14.1", "50.0 ± 14.1"]


def test_methods_are_ranked_by_their_worst_class_under_the_union_and_teachers_come_last():
    board = _board(
        _rows("teacher", {"0": 0.8}), _rows("sat", {"0": 0.3}), _rows("absld", {"0": 0.5}), _rows("rslad", {"0": 0.4})
    )
    text = table.leaderboard(board)
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
    text = table.leaderboard(_board(_rows("sat", {"0": 0.3, "1": 0.5})))
    assert "2 seeds" in text.splitlines()[0]
    # the sample deviation of 30 and 50 is 14.1
    assert _cells(text)[1] == ["", "", "", "union", "40.0 ± 14.1", "40.0 ± 14.1", "eight", "0.250 ± 0.000"]


def test_a_red_flag_stands_behind_the_name():
    assert "sat (red flag: large-eps, more-steps)" in table.leaderboard(
        _board(_rows("sat", {"0": 0.3}, flags="large-eps;more-steps"))
    )
    for flags in ("none", pd.NA):
        assert "red" not in table.leaderboard(_board(_rows("sat", {"0": 0.3}, flags=flags)))


def test_quick_and_custom_boards_have_no_ranks():
    quick = table.leaderboard(_board(_rows("sat", {"0": 0.3}, quick=True)))
    assert "quick: a smoke test, not ranked" in quick
    custom = table.leaderboard(_board(_rows("sat", {"0": 0.3})), ranked=False)
    for text in (quick, custom):
        assert [cells[0] for cells in _cells(text)] == ["", ""]


def test_names_are_shown_as_they_are():
    odd = "[/b][red]cat"
    rows = _rows("sat[bold]", {"0": 0.3}, suite="[x]", dataset="npz:[y].npz")
    for row in rows:
        if row["seed"] == "0":
            row["worst_class"] = odd
    text = table.leaderboard(_board(rows))
    assert "[x]: dataset npz:[y].npz" in text
    assert [_cells(text)[0][1], _cells(text)[0][6]] == ["sat[bold]", odd]
    report = Report(Verdicts(np.array([0, 1]), {"clean": np.array([1, 1])}, 2), (odd, "dog"))
    assert table.render_report(report).count(odd) == 4


def test_an_audit_names_the_worst_class_with_its_interval():
    labels = np.repeat([0, 1, 2], 4)
    clean = np.array([0, 0, 0, 0, 1, 1, 1, 0, 2, 2, 2, 2])
    pgd = np.array([0, 0, 0, 1, 1, 0, 0, 0, 2, 2, 2, 2])
    report = Report(Verdicts(labels, {"clean": clean, "pgd-20": pgd}, 3), ("ant", "bee", "cow"))
    text = table.render_report(report)
    # under the union 3, 1 and 4 of 4 are right: 8 of 12
    assert text.startswith("Worst class: bee, 25.0 % robust under all attacks (95 % CI ")
    assert text.splitlines()[0].endswith(" %); average 66.7 % (12 images)")
    cells = _cells(text)
    assert [row[0] for row in cells] == ["clean", "pgd-20", "union", "bee", "ant", "cow"]
    assert cells[3:] == [
        ["bee", "4", "75.0 %", "25.0 %", "25.0 %"],
        ["ant", "4", "100.0 %", "75.0 %", "75.0 %"],
        ["cow", "4", "100.0 %", "100.0 %", "100.0 %"],
    ]
    assert cells[0][1].startswith("91.7 [")


def test_a_class_without_images_has_no_figure():
    report = Report(Verdicts(np.array([0, 0]), {"clean": np.array([0, 1])}, 2), ("ant", "bee"))
    assert ["bee", "0", "-", "-"] in _cells(table.render_report(report))
