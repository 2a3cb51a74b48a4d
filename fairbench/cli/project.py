"""`fairbench new-method` and `fairbench doctor`: a new method, and the state of an installation."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from fairbench.cli.options import AsJson

__all__ = ["doctor_command", "new_method_command"]


def new_method_command(
    name: Annotated[str, typer.Argument(help="Name of the method, an identifier such as my_method.")],
    folder: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder in which methods/NAME.py and tests/ are written.")
    ] = Path(),
) -> None:
    """Write methods/NAME.py, a working example, and its test, and print the next commands."""
    from fairbench.authoring import scaffold

    method, test = scaffold.new_method(name, folder)
    plugin = "" if folder == Path() else f" --plugin {shlex.quote(str(method))}"
    print(method, test, "", sep="\n")
    print(f"Next: fairbench methods check {name}{plugin}   drive it through every hook")
    print(f"Next: python -m pytest {shlex.quote(str(test))}   its own test")
    print(f"Next: fairbench tune digits --methods {name}{plugin}   find its settings")
    print(f"Next: fairbench run digits --methods trades,{name} --seeds 0,1,2{plugin}   compare it")


def doctor_command(json_: AsJson = False) -> None:
    """Report versions, devices and datasets, what is missing, and the command that installs it."""
    from fairbench import doctor as examination

    facts = examination.examine()
    print(json.dumps(facts, indent=1) if json_ else examination.render_doctor(facts))
