"""Write the costs that `fairbench run` estimates with: `python docs/costs.py` after new results were committed."""

from __future__ import annotations

from pathlib import Path

import fairbench
from fairbench.files import write_json
from fairbench.run.costs import FILE, collect

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    path = Path(fairbench.__file__).parent / "run" / FILE
    write_json(path, collect(ROOT / "results"))
    print(path)
