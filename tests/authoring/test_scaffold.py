from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairbench import registry
from fairbench.authoring import scaffold
from fairbench.authoring.scaffold import new_method
from fairbench.errors import FairbenchError, InvalidInput


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_generated_test_passes_as_it_is(tmp_path):
    assert new_method("my_Method9", Path()) == [
        Path("methods/my_Method9.py"),
        Path("tests/methods/test_my_Method9.py"),
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_generated_method_can_be_used_at_once_and_elsewhere(tmp_path):
    new_method("fresh", tmp_path)
    entry = registry.methods.entry("fresh")
    assert entry.path == tmp_path / "methods" / "fresh.py"
    assert entry.details["base"] == "trades"
    assert "fresh_weights" in registry.policies.names()
    command = [sys.executable, "-m", "fairbench.cli", "methods", "show", "fresh"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "fresh.sharpness" in done.stdout


def test_generated_files_are_in_the_house_style(tmp_path):
    new_method("a" * 30, tmp_path)
    for name in _files(tmp_path):
        text = (tmp_path / name).read_text()
        assert max(map(len, text.splitlines())) <= 120
        assert "$" not in text
        compile(text, name, "exec")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("class", "a word of the Python language"),
        ("match", "a word of the Python language"),
        ("../evil", "a name is a letter"),
        ("a-b", "a name is a letter"),
        ("_hidden", "a name is a letter"),
        ("9lives", "a name is a letter"),
        ("", "a name is a letter"),
        ("é", "a name is a letter"),
        ("x" * 31, "up to 29"),
        ("line\n", "a name is a letter"),
        ("recipe", "--set would read it as a section of the suite"),
        ("teacher", "--set would read it as a section of the suite"),
        ("all", "options and boards use this name for something else"),
        ("shared", "options and boards use this name for something else"),
        ("trades", "method 'trades' is registered by "),
        ("$name", "a name is a letter"),
    ],
)
def test_names_that_cannot_be(tmp_path, name, said):
    with pytest.raises(InvalidInput, match="new method") as raised:
        new_method(name, tmp_path)
    assert said in str(raised.value)
    assert _files(tmp_path) == []


def test_a_policy_that_has_the_name(tmp_path, monkeypatch):
    (tmp_path / "other.py").write_text("from fairbench import register_policy\nregister_policy('mine_weights')\n")
    monkeypatch.setattr(registry, "_plugin_files", {tmp_path / "other.py": None})
    with pytest.raises(InvalidInput, match="class policy 'mine_weights' is registered by"):
        new_method("mine", tmp_path)


@pytest.mark.parametrize("there", ["methods/mine.py", "tests/methods/test_mine.py"])
def test_nothing_is_overwritten(tmp_path, there):
    path = tmp_path / there
    path.parent.mkdir(parents=True)
    path.write_text("# precious\n")
    with pytest.raises(InvalidInput, match="exists already"):
        new_method("mine", tmp_path)
    assert _files(tmp_path) == [there]
    assert path.read_text() == "# precious\n"


def test_half_a_scaffold_is_taken_back(tmp_path):
    (tmp_path / "tests").write_text("a file in the way\n")
    with pytest.raises(FairbenchError, match="cannot be written"):
        new_method("mine", tmp_path)
    assert _files(tmp_path) == ["tests"]


def test_an_interrupt_takes_the_first_file_back(tmp_path, monkeypatch):
    real = scaffold.write_text

    def write(path, text):
        if path.name.startswith("test_"):
            raise KeyboardInterrupt
        real(path, text)

    monkeypatch.setattr(scaffold, "write_text", write)
    with pytest.raises(KeyboardInterrupt):
        new_method("mine", tmp_path)
    assert _files(tmp_path) == []


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(InvalidInput, match="is not a folder"):
        new_method("mine", tmp_path / "nowhere")
