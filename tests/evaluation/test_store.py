from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairbench.errors import CorruptFile, Missing
from fairbench.evaluation.store import pack, read_verdicts, unpack, write_verdicts
from fairbench.evaluation.verdicts import Verdicts

LABELS = np.array([0, 1, 2, 1])
PARTS = {"clean": np.array([0, 2, 2, 1]), "square": np.array([0, -1, -1, 0])}
FOUND = Verdicts(
    LABELS,
    {"autoattack": LABELS, "autoattack-fast": np.array([0, 2, 2, 0])},
    3,
    {"autoattack-fast": PARTS},
)


def test_keys_name_the_kind_the_attack_and_the_component():
    assert list(pack(FOUND)) == ["autoattack", "autoattack-fast", "autoattack-fast#clean", "autoattack-fast#square"]
    assert list(pack(Verdicts(LABELS, {"clean": LABELS}, 3), "best")) == ["best/clean"]


def test_what_is_written_is_read_back_in_the_order_asked_for(tmp_path):
    path = tmp_path / "verdicts.npz"
    write_verdicts(path, LABELS, pack(FOUND))
    with np.load(path) as file:
        assert {array.dtype for array in file.values()} == {np.dtype(np.int16)}
    found = unpack(read_verdicts(path), ["autoattack-fast", "autoattack"], 3)
    assert list(found) == ["autoattack-fast", "autoattack"]
    assert list(found.components) == ["autoattack-fast"]
    for text in found:
        assert found[text].dtype == np.int64
        assert found[text].tolist() == FOUND[text].tolist()
    parts = found.components["autoattack-fast"]
    assert {name: one.tolist() for name, one in parts.items()} == {name: one.tolist() for name, one in PARTS.items()}


@given(st.lists(st.integers(-1, 2**40), min_size=1, max_size=5))
def test_no_class_number_is_cut_short(tmp_path_factory, classes):
    path = tmp_path_factory.mktemp("wide") / "verdicts.npz"
    write_verdicts(path, np.zeros(len(classes), np.int64), {"clean": np.array(classes)})
    assert read_verdicts(path)["clean"].tolist() == classes


def test_a_file_that_holds_something_else_is_one_line(tmp_path):
    path = tmp_path / "verdicts.npz"
    with pytest.raises(Missing, match="no such file"):
        read_verdicts(path)
    for arrays in ({"clean": LABELS}, {"labels": LABELS, "clean": LABELS[:2]}, {"labels": LABELS / 2}):
        np.savez(path, **arrays)
        with pytest.raises(CorruptFile, match="is not one class for each labelled image"):
            read_verdicts(path)
