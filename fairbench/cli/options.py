"""Options that several commands share."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from fairbench import registry
from fairbench.errors import InvalidInput
from fairbench.plugins.calls import MODEL_SOURCES, code_of_attack, names_code
from fairbench.report.text.width import beside
from fairbench.results.address import public

__all__ = [
    "Address",
    "AsJson",
    "Committed",
    "Jobs",
    "Logs",
    "Methods",
    "Out",
    "Plugins",
    "Publish",
    "SuiteName",
    "add_plugins",
    "announce_code",
    "announce_loggers",
    "check_address",
    "command_line",
    "known_methods",
    "known_suites",
    "local_only",
    "local_path",
    "root_folder",
    "two_columns",
    "written_path",
]


def known_suites(incomplete: str) -> list[str]:
    """Return the suites that start with a text, for the completion of a shell."""
    from fairbench.suites.suite import suite_paths

    return [name for name in suite_paths() if name.startswith(incomplete)]


def known_methods(incomplete: str) -> list[str]:
    """Return comma-separated method names with the last one completed, for the completion of a shell."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in ("all", *registry.methods.scan()) if name.startswith(last)]


SuiteName = Annotated[str, typer.Argument(help="Name of a suite, or a YAML file.", autocompletion=known_suites)]
Methods = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Comma-separated names of methods, base+policy+policy for a composition, or all (default: the suite's).",
        autocompletion=known_methods,
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="Folder, or URL such as s3://bucket/dir, of results and leaderboards (default: ./fairbench-out).",
    ),
]
Logs = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="NAME:TARGET",
        help="Logger of every epoch: tensorboard:DIR, wandb:PROJECT, mlflow:URI, or a plug-in's. May be repeated.",
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="Python file with methods or other plug-ins; its code runs with your rights. May be repeated.",
    ),
]
Publish = Annotated[
    bool, typer.Option("--publish", help="Write to the committed ./results and ./leaderboards of a checkout.")
]
# Commands that only read find the committed boards without a flag. The old flag reads only those.
Committed = Annotated[bool, typer.Option("--publish", hidden=True, help="Old flag: read the committed boards alone.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, max=10_000, help="Runs side by side, one thread each (default: the number of cores)."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Address of the Ray cluster, with --launcher ray (default: the cluster of this machine)."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def check_address(address: str | None, launcher: str) -> None:
    """Raise InvalidInput for the address of a Ray cluster that the launcher would not use."""
    if address is not None and launcher != "ray":
        raise InvalidInput(f"--address {public(address)} names a Ray cluster: add --launcher ray")


def command_line() -> str:
    """Return the running command as shell text, without the credentials of URLs, for the record of results."""
    return shlex.join(["fairbench", *map(public, sys.argv[1:])])


def root_folder(out: str | None, publish: bool) -> Path:
    """Return the folder of results/ and leaderboards/: `--out`, the working directory with `--publish`, or
    ./fairbench-out.

    For a URL this is its local mirror, which is updated.
    """
    if out is not None and publish:
        raise InvalidInput("give --out or --publish, not both")
    return Path() if publish else local_path("fairbench-out" if out is None else out, root=True)


def local_path(text: str, *, root: bool = False) -> Path:
    """Return the path itself, or the local mirror of a URL, whose runs and boards are fetched.

    The URL of a `root` may be named like anything; others may lead to a run or a board below one.
    """
    if not text.strip():  # of an unset variable: as a path it would be the working directory
        raise InvalidInput("an empty path: give a folder, a file or a URL")
    if "://" not in text:
        return Path(text)
    from fairbench.results import remote

    if not remote.is_url(text):  # else it would become a folder name that holds the credentials
        raise InvalidInput(f"{public(text)!r} is neither a folder nor a URL of one store")
    return remote.fetch_root(text) if root else remote.fetch_results(text)


def written_path(text: str | Path) -> Path:
    """Return the path of an option that names an output; raises BadParameter for an empty one, of an unset variable.

    Some versions of typer pass the default through here too, which is a path already.
    """
    if not str(text).strip():
        raise typer.BadParameter("an empty path")
    return Path(text)


def local_only(option: str, path: Path | None) -> None:
    """Raise InvalidInput for a URL where only local files can be written: it would become a folder name."""
    if path is not None and re.match(r"[A-Za-z][A-Za-z0-9+.:-]+:/", str(path)):
        shown = public(str(path).replace(":/", "://", 1))
        raise InvalidInput(f"{option}: {shown!r} is a URL; give a folder or a file on this machine")


def add_plugins(paths: list[Path] | None) -> None:
    """Register the contents of plug-in files, and say which files may now run code."""
    for path in paths or ():
        _announce("--plugin", registry.add_plugin(path))


def announce_loggers(texts: list[str] | None) -> None:
    """Make all trainings of this command, in any process, call the named loggers."""
    if texts:
        from fairbench.train.logger import VARIABLE, check_loggers

        check_loggers(texts)
        os.environ[VARIABLE] = "\n".join(texts)


def announce_code(option: str, *, model: str | None = None, attacks: Iterable[str] = ()) -> None:
    """Say which code may now run: the `module:callable` of a model or of an attack's loss."""
    named = [code_of_attack(text) for text in attacks]
    if model and names_code(model) and not Path(model).exists():
        family = model.partition(":")[0]
        named += [model] if family not in {*MODEL_SOURCES, *registry.models.names()} else []
    for place in filter(None, named):
        _announce(option, place)


def _announce(option: str, place: object) -> None:
    """Print the line on stderr, once for all of torchrun's ranks."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{option}: the code of {place} runs with your rights", file=sys.stderr)


def two_columns(rows: dict[str, str], indent: int = 0) -> str:
    """Align names and their descriptions in two columns that fit the terminal."""
    width = max(map(len, rows), default=0)
    return "\n".join(beside(f"{' ' * indent}{name:<{width}}  ", text) for name, text in rows.items())
