"""setup.cfg names every folder of code, so that a wheel holds what a checkout does."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_wheel_has_every_package():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = set(config["options"]["packages"].split())
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "fairbench").glob("**/*.py")}
    assert {".".join(folder.parts) for folder in folders} <= listed
