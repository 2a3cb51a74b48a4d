"""Who may import whom, what stays light, and which names are public."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import fairbench

PACKAGE = Path(fairbench.__file__).parent
METHODS = Path(importlib.import_module("fairbench.methods").__file__).parent


def modules() -> dict[str, Path]:
    """Every module of the package and of the built-in methods, by its import name."""
    found = {}
    for home, prefix in ((PACKAGE, "fairbench"), (METHODS, "fairbench.methods")):
        for path in sorted(home.rglob("*.py")):
            parts = path.relative_to(home).with_suffix("").parts
            found[".".join([prefix, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()
if find_spec("triton") is None:  # not every build of torch brings it
    del MODULES["fairbench.kernels.programs"], MODULES["fairbench.kernels.triton"]


def imported(path: Path) -> set[str]:
    """Full names of what a file imports anywhere in it: `from a import b` counts as both `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:  # a method may build on another of its own folder, nothing else is imported like this
                assert node.level == 1, f"{path}: relative import from above"
                assert path.parent == METHODS, f"{path}: relative import"
                module = f"fairbench.methods.{node.module}"
            else:
                module = node.module
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def run(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=False)


def test_the_walk_finds_the_package():
    assert {"fairbench", "fairbench.registry", "fairbench.data.loader", "fairbench.methods.absld"} <= set(MODULES)


@pytest.mark.parametrize("path", sorted(METHODS.glob("*.py")), ids=lambda path: path.stem)
def test_methods_import_fairbench_torch_numpy_and_the_standard_library_alone(path):
    allowed = {"fairbench", "torch", "numpy", *sys.stdlib_module_names}
    assert {name.partition(".")[0] for name in imported(path)} <= allowed


@pytest.mark.parametrize("path", sorted(METHODS.glob("*.py")), ids=lambda path: path.stem)
def test_methods_take_public_names_of_fairbench_and_nothing_from_its_modules(path):
    ours = {name for name in imported(path) if is_within(name, "fairbench") and name != "fairbench"}
    allowed = {f"fairbench.{name}" for name in fairbench.__all__}
    siblings = {name for name in ours if is_within(name, "fairbench.methods")}
    assert ours - siblings <= allowed


def test_nothing_in_fairbench_imports_a_method():
    guilty = {
        name: sorted(found)
        for name, path in MODULES.items()
        if not is_within(name, "fairbench.methods")
        and (found := {other for other in imported(path) if is_within(other, "fairbench.methods")})
    }
    assert guilty == {}


def test_importing_all_of_fairbench_loads_no_method_and_no_model_zoo():
    names = [name for name in MODULES if not is_within(name, "fairbench.methods")]
    done = run(
        f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        "print([name for name in sys.modules if name.startswith('fairbench.methods')])\n"
        "print({'robustbench', 'autoattack', 'timm'} & set(sys.modules))"
    )
    assert (done.stdout, done.returncode) == ("[]\nset()\n", 0), done.stderr


def test_importing_fairbench_is_silent_and_light():
    done = run("import sys, fairbench; print(sorted({'torch', 'pandas', 'numpy'} & set(sys.modules)))", "-W", "error")
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)


def test_listings_and_help_import_no_torch():
    """All in one process: what one of them imported would be there after the next."""
    done = run(
        "import sys\n"
        "from fairbench.cli import app\n"
        "for words in (['--help'], ['run', '--help'], ['methods'], ['policies'], ['datasets'], ['models'], ['attacks'],"
        " ['suites'], ['suites', 'digits'], ['methods', '--json']):\n"
        "    assert not app(words, standalone_mode=False), words\n"
        "    heavy = {'torch', 'torchvision', 'pandas', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "    assert not heavy, (words, heavy)\n"
        "    assert not [name for name in sys.modules if name.startswith('fairbench.methods.')], words\n",
        "-W",
        "error",
    )
    assert done.returncode == 0, done.stderr
    for word in ("absld_released", "absld_temperatures", "cifar10", "wrn-34-10", "autoattack", "cifar10-micro"):
        assert word in done.stdout


def public_definitions(tree: ast.Module) -> set[str]:
    """Functions and classes without a leading underscore, but for the commands of the command line."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    return {node.name for node in nodes if not any(".command(" in ast.unparse(mark) for mark in node.decorator_list)}


@pytest.mark.parametrize("name", MODULES)
def test_all_lists_what_is_defined_and_public(name):
    module, tree = importlib.import_module(name), ast.parse(MODULES[name].read_text(encoding="utf-8"))
    listed = list(getattr(module, "__all__", ()))
    assert len(set(listed)) == len(listed)
    assert [missing for missing in listed if not hasattr(module, missing)] == []
    assert public_definitions(tree) - set(listed) == set()


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.stem == "__init__"])
def test_a_package_lists_exactly_what_it_imports(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    imports = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and is_within(str(node.module), "fairbench") and node.module != name
        for alias in node.names
    }
    assert imports == set(getattr(importlib.import_module(name), "__all__", ()))


def test_every_public_name_is_there_and_is_no_module():
    assert sorted(fairbench.__all__) == fairbench.__all__ == dir(fairbench)
    homes = {name for names in fairbench._HOMES.values() for name in names}
    assert homes | {"__version__"} == set(fairbench.__all__)
    for name in fairbench.__all__:
        assert not isinstance(getattr(fairbench, name), type(sys)), name
    with pytest.raises(AttributeError, match=r"^module 'fairbench' has no attribute 'nothing'$"):
        fairbench.nothing  # noqa: B018


def test_version_is_that_of_the_distribution():
    assert fairbench.__version__.count(".") == 2
