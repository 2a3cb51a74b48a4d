"""Fast datasets for plans, and the plug-in of the tests of planning."""

from __future__ import annotations

from pathlib import Path

import pytest
from planned import PLUGIN, read_once

from fairbench import registry


@pytest.fixture(autouse=True)
def _quick_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets are read once for all tests."""
    monkeypatch.setattr("fairbench.run.plan.load_dataset", read_once)


@pytest.fixture
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug-in `PLUGIN` is registered, and no other file."""
    for known in (registry.methods, registry.policies):
        for name in known.names():
            known.get(name)
        for part in ("_loaded", "_details", "_source"):
            monkeypatch.setattr(known, part, dict(getattr(known, part)))
    monkeypatch.setattr(registry, "_plugin_files", {})
    (tmp_path / "mine.py").write_text(PLUGIN)
    registry.add_plugin(tmp_path / "mine.py")
