"""Which packages and modules may import which, as ARCHITECTURE.md lists them."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from configparser import ConfigParser
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fairbench

PACKAGE = Path(fairbench.__file__).parent
PAGE = Path(__file__).parents[1] / "ARCHITECTURE.md"


def modules() -> dict[str, Path]:
    """Every module of the package by its import name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(["fairbench", *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """The modules of the package that a module imports, inside functions too, but not for type checkers alone."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {module if module in MODULES else str(node.module) for module in full}
    return {other for other in found if other in MODULES and other != name}


IMPORTS = {name: imports(name) for name in MODULES}


def part(module: str) -> str:
    """The package or single module below fairbench/ that a module belongs to."""
    return module.split(".")[1] if "." in module else "fairbench"


PARTS = {part(name) for name in MODULES} - {"fairbench"}


def layers() -> list[list[str]]:
    """The list in ARCHITECTURE.md: packages and modules by line, the lowest first."""
    section = PAGE.read_text(encoding="utf-8").partition("## Who may import whom")[2].partition("\n## ")[0]
    return [line.split() for line in re.findall(r"^    (.+)$", section, re.MULTILINE)]


def test_the_page_lists_every_package_once():
    listed = [name for line in layers() for name in line]
    assert sorted(listed) == sorted(PARTS)


def test_a_module_imports_only_its_own_package_and_those_of_earlier_lines():
    height = {each: number for number, line in enumerate(layers()) for each in line}
    guilty = {
        name: wrong
        for name in sorted(set(MODULES) - {"fairbench"})
        if (wrong := {other for other in IMPORTS[name] if not _allowed(part(other), part(name), height)})
    }
    assert guilty == {}


def _allowed(imported: str, importing: str, height: dict[str, int]) -> bool:
    return imported in (importing, "fairbench") or height[imported] < height[importing]


def test_no_files_import_one_another_in_a_cycle():
    try:
        list(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_page_names_files_that_exist():
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", text):
        assert (PACKAGE / name).exists() or (PAGE.parent / name).exists(), name


def test_a_wheel_holds_every_folder_of_the_package():
    metadata = ConfigParser()
    metadata.read(PAGE.parent / "setup.cfg", encoding="utf-8")
    folders = {f"fairbench.{'.'.join(path.relative_to(PACKAGE).parts[:-1])}".rstrip(".") for path in MODULES.values()}
    assert set(metadata["options"]["packages"].split()) == folders | {"fairbench.methods", "fairbench.leaderboards"}


# Each kernel has a definition in plain torch and a program for CUDA that computes the same: two files, one operation.
TWINS = {"fairbench.kernels.reference", "fairbench.kernels.triton"}


def definitions(module: str) -> set[str]:
    """The public functions, classes and signatures (`Name = Callable[...]`) that a module defines."""
    found = set()
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Callable["):
            found |= {ast.unparse(target) for target in node.targets}
    return {name for name in found if not name.startswith("_")}


def test_no_two_public_things_have_one_name():
    homes = defaultdict(set)
    for module in MODULES:
        for name in definitions(module):
            homes[name].add(module)
    assert {name: where for name, where in homes.items() if len(where) > 1 and where != TWINS} == {}


def test_a_file_has_at_most_250_lines():
    files = [*PACKAGE.rglob("*.py"), *PAGE.parent.joinpath("methods").glob("*.py")]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert [str(path) for path, count in lines.items() if count > 250] == []
