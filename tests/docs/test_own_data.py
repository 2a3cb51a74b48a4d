"""The example on docs/own-data.md: its arrays are a dataset, and its suite can be planned."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from fairbench.cli import app
from fairbench.data.npz import read_npz

PAGE = Path(__file__).parents[2] / "docs" / "own-data.md"


def block(language: str) -> str:
    """The first block of a language; of Python the page has another one, which tests/test_readme.py runs."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(found) == {"python": 2, "yaml": 1}[language]
    return found[0]


def test_the_arrays_of_the_page_are_a_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block("python"), "own-data.md", "exec"), {})
    split, names = read_npz(tmp_path / "test.npz")
    assert split.images.shape == (8, 16, 16, 3)
    assert names == ("a", "b", "c", "d")


def test_the_suite_of_the_page_is_planned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(block("yaml"), encoding="utf-8")
    labels = np.arange(4 * 120) % 4
    images = np.random.default_rng(0).integers(0, 255, (len(labels), 8, 8, 3), dtype=np.uint8)
    for name in ("train", "test"):
        np.savez_compressed(f"{name}.npz", images=images, labels=labels)
    assert not app(["run", "mine.yaml", "--dry-run"], standalone_mode=False)
    printed = capsys.readouterr().out
    for method in ("sat", "trades", "rslad", "teacher"):
        assert method in printed
