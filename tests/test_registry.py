from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fairbench import registry
from fairbench.data import load_dataset
from fairbench.errors import InvalidInput, Missing, UnknownName
from fairbench.evaluation.evaluate import evaluate
from fairbench.leaderboard.columns import ROLES
from fairbench.models import build_model
from fairbench.plugins.calls import import_callable
from fairbench.plugins.source import Registration, import_entry

KINDS = (registry.methods, registry.policies, registry.datasets, registry.models, registry.attacks)


PLUGIN = """
from fairbench import Method, StepOutput, cross_entropy, register_method

CITATION: str = "Nobody, 2026"

@register_method("plugged", summary="A loose file's method", citation=CITATION, provenance="paper")
class Plugged(Method):
    def loss(self, model, batch, attacked):
        logits = model(attacked.x_adv)
        return StepOutput(cross_entropy(logits, batch.y).mean(), logits_adv=logits)
"""


@pytest.fixture(scope="module", autouse=True)
def _built_in_names_are_loaded():
    """A module registers once: what it registered must not be forgotten after a test."""
    for known in KINDS:
        for name in known.names():
            known.get(name)


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch, _built_in_names_are_loaded):
    """Names that a test registers are gone after it."""
    monkeypatch.setattr(registry, "_plugin_files", {})
    for known in KINDS:
        for part in ("_loaded", "_details", "_source"):
            monkeypatch.setattr(known, part, dict(getattr(known, part)))


def write(path: Path, text: str = PLUGIN) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def built_in(known: registry.Registry) -> dict[str, Registration]:
    """Without the plug-ins that other tests have registered in this process."""
    home = Path(__file__).resolve().parent.parent
    return {
        name: entry
        for name, entry in known.scan().items()
        if entry.path.is_relative_to(home / "fairbench") or entry.path.is_relative_to(home / "methods")
    }


@pytest.mark.parametrize("known", KINDS, ids=lambda known: known.kind)
def test_reading_finds_exactly_what_importing_registers(known):
    assert list(known.scan()) == sorted(known.scan()) == known.names()
    entries = built_in(known)
    assert entries
    for name, entry in entries.items():
        assert entry.module.startswith("fairbench."), f"{name} was not found by reading"
        assert entry.details == known.details(name)
        assert entry.details["summary"]
        assert entry.path == Path(sys.modules[entry.module].__file__).resolve()


def test_built_in_methods_say_where_they_come_from():
    for known in (registry.methods, registry.policies):
        for name in built_in(known):
            details = known.details(name)
            assert details["citation"], name
            kinds = {"code", "paper", "reconstruction", "ablation"}
            assert known is registry.policies or details["provenance"] in kinds, name


def test_a_composition_is_registered_with_literals_and_no_object_of_its_own():
    released = registry.methods.scan()["absld_released"].details
    assert released["base"] == "rslad"
    assert released["policies"] == ["absld_temperatures"]
    assert released["options"] == {"absld_temperatures.shared_storage": True}
    assert registry.methods.get("absld_released") is None


def test_details_are_read_before_anything_is_imported():
    code = (
        "import sys; from fairbench import registry;"
        "print(registry.methods.details('absld')['base'], registry.methods.entry('absld').module);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["rslad", "fairbench.methods.absld", "False"]


def test_an_unknown_name_suggests_the_nearest():
    for look_up in (registry.methods.get, registry.methods.entry, registry.methods.details):
        with pytest.raises(UnknownName, match=r"^unknown method 'absdl'; did you mean 'absld'\?$"):
            look_up("absdl")
    with pytest.raises(UnknownName, match=r"^unknown class policy 'zzzzzz'; known: .*absld_temperatures"):
        registry.policies.get("zzzzzz")


def test_plugin_from_a_loose_file(tmp_path):
    path = registry.add_plugin(write(tmp_path / "mine.py"))
    entry = registry.methods.entry("plugged")
    assert (entry.path, entry.module) == (path, "")
    assert entry.details == {"summary": "A loose file's method", "citation": "Nobody, 2026", "provenance": "paper"}
    assert "plugged" not in registry.methods._loaded
    assert registry.methods.get("plugged").__name__ == "Plugged"
    assert registry.methods.get("plugged") is registry.methods.get("plugged")
    assert registry.methods.details("plugged") == entry.details


def test_plugin_from_the_folder_methods_of_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path / "methods" / "mine.py")
    assert "plugged" not in registry.methods.names()
    monkeypatch.chdir(tmp_path)
    assert "plugged" in registry.methods.names()
    assert registry.methods.get("plugged").__name__ == "Plugged"


def test_a_file_that_is_found_twice_is_one_plugin(tmp_path, monkeypatch):
    path = write(tmp_path / "methods" / "mine.py")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alias.py").symlink_to(path)
    registry.add_plugin("methods/mine.py")
    registry.add_plugin(tmp_path / "alias.py")
    assert registry.methods.get("plugged").__name__ == "Plugged"


def test_names_registered_by_hand_are_listed():
    registry.datasets.decorate("mine", summary="by hand")(len)
    entry = registry.datasets.entry("mine")
    assert (entry.path, entry.details) == (Path(__file__), {"summary": "by hand"})
    assert registry.datasets.get("mine") is len


def test_one_name_in_two_files_that_differ_names_both_once_it_is_used(tmp_path):
    first = registry.add_plugin(write(tmp_path / "first.py"))
    second = registry.add_plugin(write(tmp_path / "second.py", PLUGIN + "\n"))
    assert "plugged" in registry.methods.names()
    twice = f"^method 'plugged' is registered twice: in {first} and in {second}, which differ; rename one"
    for look_up in (registry.methods.get, registry.methods.entry, registry.methods.details):
        with pytest.raises(InvalidInput, match=twice):
            look_up("plugged")
    assert len(registry.methods.rivals()) == 1


def test_two_files_of_the_same_content_are_one_plugin(tmp_path):
    first = registry.add_plugin(write(tmp_path / "first.py"))
    registry.add_plugin(write(tmp_path / "second.py"))
    assert registry.methods.rivals() == []
    assert registry.methods.entry("plugged").path == first
    assert registry.methods.get("plugged").__name__ == "Plugged"


@pytest.mark.parametrize("loaded", [True, False])
def test_a_plugin_cannot_replace_a_built_in_name(tmp_path, loaded):
    built_in_class = registry.methods.get("sat")
    if not loaded:
        del registry.methods._loaded["sat"], registry.methods._details["sat"]
    registry.add_plugin(write(tmp_path / "mine.py", PLUGIN.replace("plugged", "sat")))
    twice = r"method 'sat' is registered twice: in .*sat.py and in .*mine.py, which differ"
    assert registry.methods.scan()["sat"].module == "fairbench.methods.sat"
    for look_up in (registry.methods.entry, registry.methods.get, registry.methods.details):
        with pytest.raises(InvalidInput, match=twice):
            look_up("sat")
    with pytest.raises(InvalidInput, match=twice):
        import_entry(Registration("sat", tmp_path / "mine.py", ""))
    assert registry.methods._loaded.get("sat", built_in_class) is built_in_class


def test_one_name_twice_in_one_file(tmp_path):
    path = registry.add_plugin(write(tmp_path / "mine.py", PLUGIN + PLUGIN.partition("2026")[2].partition("\n")[2]))
    assert "plugged" in registry.methods.names()
    with pytest.raises(InvalidInput, match=f"^method 'plugged' is registered twice in {path}$"):
        registry.methods.get("plugged")


@pytest.mark.parametrize("name", ["../../evil", "a/b", "a+b", "a:b", "", "a b", ".hidden", "-x", "x" * 81, "sät"])
def test_names_that_could_not_be_part_of_a_path_are_refused(tmp_path, name):
    registry.add_plugin(write(tmp_path / "mine.py", PLUGIN.replace("plugged", name)))
    with pytest.raises(InvalidInput, match=r"in .*mine\.py: a name is at most 80 letters"):
        registry.methods.names()
    with pytest.raises(InvalidInput, match=r"test_registry\.py: a name is at most"):
        registry.datasets.decorate(name)(len)


@pytest.mark.parametrize("name", ["all", "shared", *ROLES])
def test_no_method_has_a_name_that_stands_for_something_else(tmp_path, name):
    registry.add_plugin(write(tmp_path / "mine.py", PLUGIN.replace("plugged", name)))
    with pytest.raises(InvalidInput, match=f"^method '{name}' in .*mine.py: options and boards use this name"):
        registry.methods.names()
    registry.datasets._check_name(name, "mine.py")


@pytest.mark.parametrize("text", ["def broken(:\n", "x = 'unclosed\n", "a\0b"])
def test_a_plugin_that_is_no_python_is_one_line_with_its_path(tmp_path, text):
    path = registry.add_plugin(write(tmp_path / "broken.py", text))
    with pytest.raises(InvalidInput, match=f"^{path}: cannot be read as Python: .+$"):
        registry.methods.names()


def test_a_plugin_in_no_known_encoding(tmp_path):
    path = tmp_path / "latin.py"
    path.write_bytes("name = 'é'".encode("latin-1"))
    registry.add_plugin(path)
    with pytest.raises(InvalidInput, match="cannot be read as Python"):
        registry.methods.names()


def test_a_plugin_that_fails_on_import_fails_each_time_it_is_asked_for(tmp_path):
    path = registry.add_plugin(write(tmp_path / "failing.py", "import no_such_package\n" + PLUGIN))
    assert "plugged" in registry.methods.names()
    for _ in range(2):
        with pytest.raises(InvalidInput, match=f"^{path}: ModuleNotFoundError: No module named 'no_such_package'$"):
            registry.methods.get("plugged")


def test_a_plugin_that_does_not_register_what_it_says(tmp_path):
    source = "if False:\n" + "\n".join(f"    {line}" for line in PLUGIN.splitlines())
    path = registry.add_plugin(write(tmp_path / "shy.py", source))
    with pytest.raises(InvalidInput, match=f"^{path}: was imported and has not registered method 'plugged'$"):
        registry.methods.get("plugged")


def test_only_literals_are_read(tmp_path):
    text = (
        "from fairbench import register_method\n"
        "LIST = ['a', 'b']\nSUM = 1 + 1\n"
        "register_method('mine', policies=LIST, options={'x': -1.5}, summary='a' + 'b', odd={[]: 1}, other=SUM)\n"
        "register_method(LIST[0])\nregister_method()\nregister_method(name='keyword')\n"
    )
    registry.add_plugin(write(tmp_path / "mine.py", text))
    added = {entry.name: entry for entry in registry.methods.scan().values() if entry.path.parent == tmp_path}
    assert list(added) == ["mine"]
    assert added["mine"].details == {
        "policies": ["a", "b"],
        "options": {"x": -1.5},
        "summary": None,
        "odd": None,
        "other": None,
    }


@pytest.mark.parametrize("name", ["absent.py", ".", "notes.txt"])
def test_a_plugin_must_be_a_python_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(Missing, match=r"--plugin .*: not a Python file"):
        registry.add_plugin(name)


@pytest.mark.parametrize(
    "code", ["raise SystemExit(0)", "import sys; sys.exit()", "raise ValueError('no')", "1 / 0", "raise GeneratorExit"]
)
def test_a_plugin_that_fails_or_exits_when_it_is_imported_is_one_line(tmp_path, code, monkeypatch):
    path = registry.add_plugin(write(tmp_path / "bad_plugin.py", PLUGIN + code + "\n"))
    with pytest.raises(InvalidInput, match=f"^{path}: "):
        registry.methods.get("plugged")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="model 'bad_plugin:x': bad_plugin cannot be imported: "):
        import_callable("model", "bad_plugin:x")


def test_an_installed_plugin_whose_package_exits_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "exiting").mkdir()
    (tmp_path / "exiting" / "__init__.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("x", "exiting.methods", "fairbench.methods")
    monkeypatch.setattr(registry, "installed", lambda group: [point.value] if group == point.group else [])
    with pytest.raises(InvalidInput, match=r"the installed plug-in exiting\.methods cannot be imported: SystemExit"):
        registry.methods.names()


def test_methods_that_are_no_files_are_passed_over_and_deep_ones_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "methods" / "mine.py").parent
    (folder / "loop.py").symlink_to(folder / "loop.py")
    (folder / "nowhere.py").symlink_to("nothing")
    (folder / "folder.py").mkdir()
    os.mkfifo(folder / "pipe.py")
    assert "plugged" in registry.methods.names()
    for text in ("x = " + "(" * 5000 + ")" * 5000, "x = " + "-" * 100_000 + "1", "x = " + "a." * 100_000 + "b"):
        (folder / "deep.py").write_text(text)
        with pytest.raises(InvalidInput, match=r"deep\.py: cannot be read as Python: "):
            registry.methods.names()
    with (folder / "deep.py").open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(InvalidInput, match="larger than the 10000000 bytes"):
        registry.methods.names()


def test_a_loop_in_the_place_of_the_folder_of_methods(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "methods").symlink_to("methods")
    assert "sat" in registry.methods.names()
    with pytest.raises(Missing, match="not a Python file"):
        registry.add_plugin("methods")


def test_every_kind_can_be_registered_as_its_decorator_says(tmp_path):
    """A model, a dataset and an attack by the signatures of their docstrings, in a plug-in of its own."""
    path = write(
        tmp_path / "kinds.py",
        """
import numpy as np
import torch
from torch import nn

from fairbench import register_attack, register_dataset, register_model
from fairbench.data import Dataset, Split

@register_model("my-net", summary="a linear network")
def my_net(num_classes, shape, *, bias: bool = True):
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), num_classes, bias=bias))

@register_dataset("my-data", summary="black images", classes=2)
def my_data(root):
    split = Split(np.zeros((8, 4, 4, 1), np.uint8), np.arange(8) % 2)
    return Dataset("my-data", split, split, ("cat", "dog"))

@register_attack("my-noise", summary="noise of one sign")
def my_noise(model, x, y, *, eps, norm, rng, share: float = 1.0):
    return (x + share * eps).clamp(0, 1)
""",
    )
    registry.add_plugin(path)
    found = evaluate(
        build_model("my-net:bias=false", num_classes=2, shape=(1, 4, 4)),
        load_dataset("my-data"),
        attacks=["my-noise:share=0.5"],
        norm="Linf",
        eps=0.1,
        flags=False,
    )
    assert list(found.verdicts) == ["my-noise:share=0.5"]
