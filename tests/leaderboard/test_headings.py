from __future__ import annotations

import pandas as pd
import pytest

from fairbench.errors import UnknownName
from fairbench.leaderboard.headings import COMPARED, HEADINGS, RANKED, explain_heading
from fairbench.report.html.board_page import COLUMNS
from fairbench.report.text.costs import COSTS, cost_sheet


def test_every_heading_of_a_table_or_a_page_is_explained():
    for heading in (*RANKED.values(), *COMPARED, *(title for _, title, _ in COLUMNS), *HEADINGS):
        assert explain_heading(heading)["meaning"], heading
    frame = pd.DataFrame({name: [1.0] for name in (*COSTS, "train_robust")} | {"method": ["sat"], "seeds": [1]})
    for heading, _ in cost_sheet("", frame, "sat").headings:
        assert explain_heading(heading)["meaning"], heading
    for unknown in ("/ zzz", "A banana %"):
        with pytest.raises(UnknownName):
            explain_heading(unknown)
    assert explain_heading("/ sat")["meaning"].endswith(" of sat")
    assert explain_heading("B absld %")["meaning"] == "the figure of absld, side B of the comparison"
    for word in ("tier", "relative", "union", "clean", "nrgc", "rdi", "train s", "peak MiB"):
        assert explain_heading(word)["meaning"]


def test_a_column_is_explained_as_before_and_a_heading_names_its_column():
    assert explain_heading("worst")["column"] == "worst"
    assert explain_heading("worst class %") == {"heading": "worst class %", **explain_heading("worst")}
    assert explain_heading("Behind best") == explain_heading("behind_best") == explain_heading("behind best")
    with pytest.raises(UnknownName, match="unknown column 'worts'; did you mean 'worst'"):
        explain_heading("worts")
