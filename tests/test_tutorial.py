"""The tutorial of the documentation, as a reader runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.py"


def test_it_walks_from_a_file_to_a_verdict(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(TUTORIAL), str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for step in ("1. ", "2. ", "3. ", "4. ", "5. ", "6. "):
        assert f"\n{step}" in f"\n{done.stdout}"
    assert "worst_first" in done.stdout
    assert "Worst class: " in done.stdout
    assert (tmp_path / "out" / "front.svg").stat().st_size > 1000
    assert (tmp_path / "out" / "site" / "index.html").is_file()
