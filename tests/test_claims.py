"""docs/claims.py decides which sentences of a document are findings, and docs/digits.md is what it writes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fairbench import load_leaderboard

ROOT = Path(__file__).parent.parent
BOARD = ROOT / "leaderboards" / "digits" / "v3.csv"


@pytest.fixture(scope="module")
def claims() -> ModuleType:
    spec = importlib.util.spec_from_file_location("claims", ROOT / "docs" / "claims.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["claims"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_document_is_what_the_command_writes(claims, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    committed = (ROOT / "docs" / "digits.md").read_text(encoding="utf-8")
    target = tmp_path / "digits.md"
    target.write_text(committed.replace("dafa", "gone"), encoding="utf-8")
    claims.main(["leaderboards/digits/v3.csv", "--write", str(target)])
    assert target.read_text(encoding="utf-8") == committed


def test_a_sentence_is_a_finding_only_if_all_its_tests_support_it(claims):
    key = ("dafa", "trades", "worst", "union")
    note = claims.Note("DAFA is fairer.", "dafa", "trades", ("+worst",), ("union",))
    assert note.supported({key: claims.Test(0.1, 0.001, 0.04)})
    assert not note.supported({key: claims.Test(0.1, 0.001, 0.06)})  # small alone, not after correction
    assert not note.supported({key: claims.Test(-0.1, 0.001, 0.04)})  # significant the other way
    both = claims.Note("It costs nothing.", "dafa", "trades", ("+worst", "+average"), ("union",))
    other = ("dafa", "trades", "average", "union")
    assert not both.supported({key: claims.Test(0.1, 0.001, 0.04), other: claims.Test(0.1, 0.2, 1.0)})


def test_every_sentence_stands_in_one_section(claims):
    tests = claims.tested(load_leaderboard(BOARD))
    assert len(tests) == len(claims.CLAIMS) * 6
    text = claims.report(tests)
    findings, exploratory = text.split("**Findings**")[1].split("**Exploratory**")
    for note in claims.NOTES:
        assert (note.text in findings) == note.supported(tests)
        assert (note.text in exploratory) == (not note.supported(tests))
    assert all(one.p >= one.raw for one in tests.values())


def test_marks_that_are_missing_are_named(claims):
    with pytest.raises(ValueError, match="no marks <!-- begin board -->"):
        claims.written("no marks", {"board": "text"})
