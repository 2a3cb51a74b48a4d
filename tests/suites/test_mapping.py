"""YAML files that are larger than any suite, or unfold to more, are refused before they are used."""

from __future__ import annotations

import os

import pytest

from fairbench.errors import CorruptFile, InvalidInput, Missing
from fairbench.suites import mapping
from fairbench.suites.mapping import read_mapping


def test_a_file_has_so_many_bytes_and_no_more(tmp_path):
    path = tmp_path / "suite.yaml"
    text = "name: x\n"
    path.write_text(text + "#" * (mapping.MAX_SUITE_BYTES - len(text)))
    assert read_mapping(path, "here") == {"name": "x"}
    path.write_text(text + "#" * (mapping.MAX_SUITE_BYTES - len(text) + 1))
    with pytest.raises(InvalidInput, match=r"^here: larger than the 1000000 bytes allowed$"):
        read_mapping(path, "here")


def test_aliases_unfold_to_so_many_values_and_no_more(tmp_path):
    path = tmp_path / "suite.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 4)]
    path.write_text("\n".join(lines))  # 11,110 + 1,110 + 110 + 10 values below four keys
    assert set(read_mapping(path, "here")) == {"a0", "a1", "a2", "a3"}
    path.write_text("\n".join([*lines, f"a4: [{', '.join(['*a3'] * 10)}]"]))
    with pytest.raises(InvalidInput, match=r"^here: unfolds to more than the 100000 values allowed$"):
        read_mapping(path, "here")


def _listed(count: int) -> str:
    return f"x: [{', '.join(map(str, range(count)))}]"


def _paired(count: int) -> str:
    return f"{{{', '.join(f'k{number}: {number}' for number in range(count))}}}"


@pytest.mark.parametrize(("text", "most"), [(_listed, 97), (_paired, 49)])  # the outer mapping is a value as well
def test_every_value_and_every_key_counts_once(tmp_path, monkeypatch, text, most):
    monkeypatch.setattr(mapping, "MAX_SUITE_VALUES", 100)
    path = tmp_path / "suite.yaml"
    path.write_text(text(most))
    assert read_mapping(path, "here")
    path.write_text(text(most + 1))
    with pytest.raises(InvalidInput, match="unfolds to more than the 100 values"):
        read_mapping(path, "here")


def test_merges_stop_before_they_have_multiplied(tmp_path, monkeypatch):
    """A key of two merged mappings counts in the node that is built, whether or not PyYAML drops equal keys."""
    path = tmp_path / "suite.yaml"
    path.write_text("a: &a {1: 1, 2: 2, 3: 3}\nb: &b {4: 4, 5: 5, 6: 6}\nc: {<<: [*a, *b]}\n")
    assert len(read_mapping(path, "here")["c"]) == 6
    monkeypatch.setattr(mapping, "MAX_SUITE_VALUES", 5)
    with pytest.raises(CorruptFile, match="merges make more than the 5 values allowed"):
        read_mapping(path, "here")


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path):
    """Their size is 0, and reading them never ends."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "zero.yaml"):
        with pytest.raises(Missing, match=f"{name}: cannot be read: not a regular file"):
            read_mapping(tmp_path / name, "here")
