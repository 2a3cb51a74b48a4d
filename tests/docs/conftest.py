"""The generators of the documentation site, which are no part of the package, become importable."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = str(Path(__file__).parents[2] / "docs")
if DOCS not in sys.path:
    sys.path.insert(0, DOCS)
