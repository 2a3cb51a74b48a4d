from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fairbench
from fairbench import plot
from fairbench.errors import Missing, UnknownName

ROOT = Path(__file__).parents[1]
METHODS = ["sat", "absld", "teacher"]


@pytest.fixture(scope="module")
def board():
    return fairbench.load_leaderboard(ROOT / "leaderboards/cifar10-micro/v1.csv")


def union(board, method):
    rows = board[(board["attack"] == "union") & (board["checkpoint"] == "best") & (board["seed"] == "mean")]
    return rows[rows["method"] == method].iloc[0]


def saved(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def test_the_module_is_imported_when_it_is_first_named():
    code = "import sys, fairbench; print('matplotlib' in sys.modules, fairbench.plot.heatmap.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "False fairbench.plot\n", done.stderr


def test_a_heatmap_shows_every_class_of_every_method_in_percent(board):
    axes = plot.heatmap(board, class_names=list("abcdefghij")).axes[0]
    shown = np.asarray(axes.images[0].get_array())
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert sorted(names) == sorted(METHODS)
    for place, name in enumerate(names):
        assert shown[place] == pytest.approx([100 * union(board, name)[f"class_{c}"] for c in range(10)])
    assert [text.get_text() for text in axes.get_xticklabels()] == list("abcdefghij")


def test_worst_stands_against_average(board):
    axes = plot.worst_against_average(board).axes[0]
    drawn = {tuple(np.round(line.get_xydata()[0], 6)) for line in axes.lines if len(line.get_xydata()) == 1}
    assert drawn == {
        tuple(np.round([100 * union(board, name)[figure] for figure in ("average", "worst")], 6)) for name in METHODS
    }


@pytest.mark.parametrize("draw", [plot.clean_robust, plot.nsd, plot.cost, plot.worst_against_average, plot.heatmap])
def test_figures_can_be_saved_under_any_attack(board, draw):
    assert saved(draw(board, attack="pgd-20"))[:4] == b"\x89PNG"
    with pytest.raises(UnknownName, match="did you mean 'pgd-20'"):
        draw(board, attack="pgd-21")


def test_a_flow_has_rows_that_sum_to_everything_and_robust_accuracy_on_its_diagonal(board):
    axes = plot.flow(board, "absld", results=ROOT / "results", attack="pgd-20").axes[0]
    shown = np.asarray(axes.images[0].get_array())
    rows = board[(board["method"] == "absld") & (board["attack"] == "pgd-20") & (board["checkpoint"] == "best")]
    mean = rows[rows["seed"] == "mean"].iloc[0]
    assert shown.sum(axis=1) == pytest.approx(np.full(10, 100))
    assert np.diag(shown) == pytest.approx([100 * mean[f"class_{c}"] for c in range(10)], abs=0.01)


def test_a_flow_without_its_run_folders_says_so(board, tmp_path):
    with pytest.raises(Missing, match="no verdicts of absld under best/union"):
        plot.flow(board, "absld", results=tmp_path)
    with pytest.raises(UnknownName, match="method of this board 'absdl'; did you mean 'absld'"):
        plot.flow(board, "absdl", results=tmp_path)


def test_a_name_with_dollars_is_no_mathematics(write_tiny):
    labels = plot.heatmap(write_tiny("$x$")).axes[0].get_yticklabels()
    assert [text.get_text() for text in labels] == [r"\$x\$"]


@pytest.fixture
def write_tiny(board):
    def write(name):
        return board[board["method"] == "sat"].assign(method=name)

    return write
