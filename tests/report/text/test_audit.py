from __future__ import annotations

import numpy as np

from fairbench.evaluation.report import Report
from fairbench.evaluation.verdicts import Verdicts
from fairbench.report.text.audit import render_report


def _cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_an_audit_names_the_worst_class_with_its_interval():
    labels = np.repeat([0, 1, 2], 4)
    clean = np.array([0, 0, 0, 0, 1, 1, 1, 0, 2, 2, 2, 2])
    pgd = np.array([0, 0, 0, 1, 1, 0, 0, 0, 2, 2, 2, 2])
    report = Report(Verdicts(labels, {"clean": clean, "pgd-20": pgd}, 3), ("ant", "bee", "cow"))
    text = render_report(report)
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


def test_an_audit_counts_the_classes_that_are_as_low():
    labels = np.repeat([0, 1, 2], 2)
    two, three = np.array([0, 1, 1, 0, 2, 2]), np.array([1, 1, 2, 2, 0, 0])
    names = ("ant", "bee", "cow")
    text = render_report(Report(Verdicts(labels, {"clean": labels, "fgsm": two}, 3), names))
    assert text.startswith("Worst class: ant and 1 other that is as low, 50.0 % robust")
    assert [row[3] for row in _cells(text)[:3]] == ["ant +2", "ant +1", "ant +1"]
    text = render_report(Report(Verdicts(labels, {"clean": labels, "pgd-20": three}, 3), names))
    assert text.startswith("Worst class: ant and 2 others that are as low, 0.0 % robust")


def test_a_class_without_images_has_no_figure():
    report = Report(Verdicts(np.array([0, 0]), {"clean": np.array([0, 1])}, 2), ("ant", "bee"))
    assert ["bee", "0", "-", "-"] in _cells(render_report(report))


def test_a_class_is_named_as_it_is():
    odd = "[/b][red]cat"
    report = Report(Verdicts(np.array([0, 1]), {"clean": np.array([1, 1])}, 2), (odd, "dog"))
    assert render_report(report).count(odd) == 4
