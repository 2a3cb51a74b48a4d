"""A narrow terminal: headings continue on further lines, then columns go, and with them what explains them."""

from __future__ import annotations

import pytest

from fairbench.report.text import sheet as module
from fairbench.report.text.sheet import Sheet, plain_columns, text

SHEET = Sheet(
    "",
    [("method", True), ("95 % interval", False), ("training seconds", False)],
    [["absld", "[-6.7, +10.7]", "12"], ["a", "[+0.0, +1.0]", "7"]],
    notes=["The note."],
    optional=["training seconds"],
    legend={"95 % interval": "Interval: over seeds.", "training seconds": "Training: of one core."},
)


@pytest.fixture(params=[text, plain_columns])
def written(request, monkeypatch):
    def write(columns: int) -> list[str]:
        monkeypatch.setattr(module, "terminal_width", lambda: columns)
        monkeypatch.setattr("fairbench.report.text.stdout.terminal_width", lambda: columns)
        lines: list[str] = request.param(SHEET).splitlines()
        assert max(map(len, lines[:7])) <= columns
        return lines

    return write


@pytest.mark.parametrize(("columns", "heading"), [(80, "training seconds"), (40, "seconds")])
def test_headings_continue_before_a_column_is_left_out(written, columns, heading):
    lines = written(columns)
    assert any(heading in line for line in lines)
    assert ("training seconds" in "\n".join(lines)) == (columns == 80)
    assert [line for line in lines if "[-6.7, +10.7]" in line and "absld" in line and "12" in line]  # on one line
    assert lines[-3:] == ["The note.", "Interval: over seeds.", "Training: of one core."]


def test_the_explanation_of_a_column_goes_with_it(written):
    said = "\n".join(written(36))
    assert "Interval: over seeds." in said
    assert "Training: of one core." not in said
    assert "too narrow: training seconds." in said
    assert "[-6.7, +10.7]" in said
