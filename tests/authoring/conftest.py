"""Registrations of a test are removed after it."""

from __future__ import annotations

import pytest
import torch

from fairbench import (
    registry,
)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the registrations of a test after it."""
    torch.set_num_threads(1)
    for table in (registry.methods, registry.policies):
        for name in table.names():
            table.get(name)  # a module that is imported registers once only
        for name in ("_loaded", "_details", "_source"):
            monkeypatch.setattr(table, name, dict(getattr(table, name)))
    monkeypatch.setattr(registry, "_plugin_files", {})
