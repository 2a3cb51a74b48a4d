"""`fairbench new-method` and `fairbench doctor`: for those who set something up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fairbench.cli.options import AsJson

__all__ = ["doctor", "new_method"]


def new_method(
    name: str, folder: Annotated[Path, typer.Option(help="Where methods/ and tests/ are.")] = Path()
) -> None:
    """Write methods/NAME.py and its test, both of which pass as they are."""
    from fairbench.authoring import scaffold

    for path in scaffold.new_method(name, folder):
        print(path)


def doctor(json_: AsJson = False) -> None:
    """Report versions, devices and data, what is missing, and the command that gets it."""
    from fairbench import doctor as examination

    facts = examination.examine()
    print(json.dumps(facts, indent=1) if json_ else examination.render(facts))
