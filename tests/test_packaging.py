"""The wheel: it has the code, the boards, the suites, the costs and the templates, and no tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a wheel that is built from a copy of what it is made of, by name."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("fairbench", "methods", "leaderboards"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def test_a_wheel_has_every_package():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = set(config["options"]["packages"].split())
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "fairbench").glob("**/*.py")}
    assert {".".join(folder.parts) for folder in folders} <= listed


def test_a_wheel_has_every_file_that_a_command_reads(contents):
    kept = [path for path in (ROOT / "fairbench").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {str(path.relative_to(ROOT)): path for path in kept}
    expected |= {f"fairbench/{path.relative_to(ROOT)}": path for path in ROOT.glob("methods/*.py")}
    expected |= {f"fairbench/{path.relative_to(ROOT)}": path for path in ROOT.glob("leaderboards/*/*.csv")}
    assert expected.keys() <= contents.keys(), sorted(expected.keys() - contents.keys())
    assert all(contents[name] == path.read_bytes() for name, path in expected.items())
    for name in (
        "fairbench/leaderboards/digits/v3.csv",
        "fairbench/suites/digits.yaml",
        "fairbench/run/costs.json",
        "fairbench/report/html/templates/site.js",
        "fairbench/methods/absld.py",
        "fairbench/py.typed",
    ):
        assert name in expected


def test_a_wheel_has_no_tests_no_results_and_no_weights(contents):
    outside = {name for name in contents if not name.startswith(("fairbench/", "robust_fairbench-"))}
    assert outside == set()
    assert not [name for name in contents if Path(name).name.startswith(("test_", "conftest"))]
    assert not [name for name in contents if name.endswith((".safetensors", ".npz"))]
    assert not [name for name in contents if name.startswith("fairbench/results/") and not name.endswith(".py")]
