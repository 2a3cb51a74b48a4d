"""Every script below docs/ can still be loaded: names that it imports from the package exist."""

from __future__ import annotations

import pytest
from doc_scripts import DOCS, doc_script

SCRIPTS = sorted(
    str(path.relative_to(DOCS).with_suffix(""))
    for folder in (DOCS, DOCS / "simulations")
    for path in folder.glob("*.py")
    if path.name != "conf.py"  # is Sphinx's, and test_site builds with it
)
OPTIONAL = {"screenshots": "playwright", "simulations/page_load": "playwright"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_loads(name):
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name], reason="drives a browser: pip install playwright")
    assert doc_script(name).__doc__
