"""The scripts below docs/, loaded as `python docs/SCRIPT.py` runs them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["DOCS", "doc_script"]

DOCS = Path(__file__).parents[1] / "docs"


def doc_script(name: str) -> ModuleType:
    """Load `docs/<name>.py` with its own folder first on the path, without running its main function."""
    path = DOCS / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"docs_{name.replace('/', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
