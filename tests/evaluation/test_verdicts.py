from __future__ import annotations

import json
import math
import pickle
import re
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from fairbench.errors import Missing, UnknownName
from fairbench.evaluation.report import Report
from fairbench.evaluation.store import read_verdicts
from fairbench.evaluation.verdicts import Verdicts

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])


def _report() -> Report:
    """Clean: 4/4 and 3/4. pgd: 3/4 and 2/4, on other images, so that the union is 3/4 and 1/4."""
    predicted = {
        "clean": np.array([0, 0, 0, 0, 1, 1, 1, 0]),
        "pgd-20": np.array([0, 0, 0, 1, 0, 0, 1, 1]),
    }
    return Report(Verdicts(LABELS, predicted, 2), ("cat", "dog"))


def test_figures_are_those_of_the_union() -> None:
    report = _report()
    assert report.verdicts.union().tolist() == [0, 0, 0, 1, 0, 0, 1, 0]
    assert report.average == 0.5
    assert report.worst == 0.25
    assert report.worst_class == 1
    assert report.nsd == pytest.approx(0.25 / 0.5)


def test_called_with_an_attack_they_are_that_attacks() -> None:
    report = _report()
    assert report.average(attack="clean") == 0.875
    assert report.worst("pgd-20") == 0.5
    assert report.worst_class(attack="clean") == 1
    assert report.nsd(attack="clean") == pytest.approx(0.125 / 0.875)
    assert report.worst() == report.worst == report.summary("union").worst
    with pytest.raises(UnknownName, match="unknown attack of this report 'pgd-2'; did you mean 'pgd-20'"):
        report.worst(attack="pgd-2")


def test_verdicts_are_a_mapping_in_protocol_order() -> None:
    verdicts = _report().verdicts
    assert list(verdicts) == ["clean", "pgd-20"]
    assert len(verdicts) == 2
    assert verdicts["clean"].tolist() == [0, 0, 0, 0, 1, 1, 1, 0]
    assert "fgsm" not in verdicts


def test_an_attack_is_found_by_the_name_that_was_given() -> None:
    verdicts = Verdicts(LABELS, {"pgd-20:fast=True,step=0.5": LABELS, "clean": LABELS[::-1]}, 2)
    for name in ("pgd-20:fast=true,step=0.5", "pgd-20:step=1/2,fast=True", "pgd-20:fast=True,step=0.5"):
        assert name in verdicts
        assert verdicts[name] is verdicts.predicted["pgd-20:fast=True,step=0.5"]
        assert Report(verdicts, ("cat", "dog")).average(attack=name) == 1.0
    assert verdicts["union"].tolist() == verdicts.union().tolist()
    for name in ("pgd-20", "pgd-20:fast=false,step=0.5", "pgd-20:", "pgd-20:oops", ""):
        assert name not in verdicts
        with pytest.raises(KeyError, match=f"^unknown attack of this report {name!r}"):
            verdicts[name]
    assert 3 not in verdicts


def test_per_class_has_a_row_a_class() -> None:
    table = _report().per_class
    assert list(table.columns) == ["n", "clean", "pgd-20", "union", "union_lo", "union_hi"]
    assert table.index.tolist() == ["cat", "dog"]
    assert table["n"].tolist() == [4, 4]
    assert table["clean"].tolist() == [1.0, 0.75]
    assert table.loc["dog", "union"] == 0.25
    # Clopper-Pearson for 1 of 4: the lower bound solves 1 - (1 - p)^4 = 0.025
    assert table.loc["dog", "union_lo"] == pytest.approx(1 - 0.975**0.25)


def test_a_class_without_images_is_nan_and_drawn_as_nothing() -> None:
    report = Report(Verdicts(LABELS, {"clean": LABELS}, 3), ("a", "b", "c"))
    assert math.isnan(report.per_class.loc["c", "clean"])
    mpl.use("agg")
    assert [bar.get_height() for bar in report.plot().patches] == [1.0, 1.0, 0.0]


def test_plot_draws_a_bar_a_class_and_marks_the_worst() -> None:
    mpl.use("agg")
    axes = _report().plot(attack="pgd-20")
    assert [bar.get_height() for bar in axes.patches] == [0.75, 0.5]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()
    assert axes.get_ylabel() == "accuracy under pgd-20"
    assert _report().plot(ax=axes) is axes


def test_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Missing, match="pip install matplotlib"):
        _report().plot()


def test_a_report_reads_as_one_line_and_can_be_pickled() -> None:
    text = repr(_report())
    assert text.startswith("8 images under clean, pgd-20: average 0.5000, worst class dog 0.2500 [")
    assert text.endswith("NSD 0.5000")
    assert pickle.loads(pickle.dumps(_report().worst))(attack="clean") == 0.75


def test_a_report_is_written_as_json_as_a_page_and_as_a_folder(tmp_path: Path) -> None:
    report = _report()
    text = report.to_json(tmp_path / "new" / "report.json")
    assert json.loads(text) == report.as_dict() == json.loads((tmp_path / "new" / "report.json").read_text())
    page = report.to_html(tmp_path / "page.html", title="net")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert page.lower().startswith("<!doctype html>")
    assert re.search(r"<h1><span class=\"of\">net\b", page)
    report.save(str(tmp_path / "folder"))
    assert (tmp_path / "folder" / "report.json").read_text().strip() == text
    stored = read_verdicts(tmp_path / "folder" / "verdicts.npz")
    assert {name: array.tolist() for name, array in stored.items()} == {
        "labels": LABELS.tolist(),
        **{name: array.tolist() for name, array in report.verdicts.items()},
    }


def test_the_first_break_is_that_of_the_first_attack_in_protocol_order_and_of_its_component() -> None:
    predicted = {
        "clean": np.array([0, 0, 0, 0, 1, 1, 1, 0]),
        "fast": np.array([1, 1, 0, 0, 0, 1, 0, 0]),
        "pgd-20": np.array([0, 1, 1, 0, 1, 0, 1, 1]),
    }
    parts = {
        "clean": np.array([0, 0, 0, 0, 1, 1, 1, 0]),
        "apgd-ce": np.array([1, 0, 0, 0, 1, 1, 0, -1]),
        "square": np.array([-1, 1, 0, 0, 0, 1, -1, -1]),
    }
    verdicts = Verdicts(LABELS, predicted, 2, {"fast": parts})
    expected = ["fast#apgd-ce", "fast#square", "pgd-20", "", "fast#square", "pgd-20", "fast#apgd-ce", "clean"]
    assert verdicts.first_break().tolist() == expected
    assert Verdicts(LABELS, predicted, 2).first_break().tolist() == [text.partition("#")[0] for text in expected]


def test_images_outside_an_attacks_subset_are_in_no_figure_of_the_union() -> None:
    predicted = {
        "clean": np.array([0, 0, 0, 0, 1, 1, 1, 0]),
        "pgd-20:per_class=2": np.array([1, 0, -2, -2, 0, 1, -2, -2]),
    }
    report = Report(Verdicts(LABELS, predicted, 2), ("cat", "dog"))
    assert (report.summary().n, report.summary("clean").n) == (4, 8)
    assert report.per_class["n"].tolist() == [2, 2]
    assert report.average == 0.5
    assert report.strongest == "pgd-20:per_class=2"
    assert report.verdicts.first_break().tolist() == [
        "pgd-20:per_class=2",
        "",
        "",
        "",
        "pgd-20:per_class=2",
        "",
        "",
        "",
    ]
    assert repr(report).startswith("4 images under clean, pgd-20:per_class=2: average 0.5000")
