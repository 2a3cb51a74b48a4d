"""Options that several commands share, and how their values are parsed."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from fairbench import registry
from fairbench.errors import InvalidInput
from fairbench.report.text.width import beside
from fairbench.results.address import public

__all__ = [
    "MAX_SEED",
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
    "command_line",
    "known_methods",
    "known_suites",
    "local_only",
    "local_path",
    "parse_number",
    "parse_settings",
    "require_writable",
    "root_folder",
    "split_attacks",
    "split_integers",
    "split_names",
    "split_numbers",
    "two_columns",
]

MAX_SEED = 2**63 - 1


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
    typer.Option(help="Comma-separated names, base+policy+policy, or all.", autocompletion=known_methods),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        help="Folder, or URL such as s3://bucket/dir, of results and leaderboards (default: ./fairbench-out).",
    ),
]
Logs = Annotated[
    list[str] | None,
    typer.Option("--log", help="NAME:TARGET, e.g. tensorboard:DIR, wandb:PROJECT, mlflow:URI, or a plug-in's logger."),
]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="Python file with plug-ins; its code runs with your rights.")
]
Publish = Annotated[
    bool, typer.Option("--publish", help="Write to the committed ./results and ./leaderboards of a checkout.")
]
# Commands that only read find the committed boards without a flag. The old flag reads only those.
Committed = Annotated[bool, typer.Option("--publish", hidden=True, help="Old flag: read the committed boards alone.")]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, max=10_000, help="Runs side by side, one thread each (default: the number of cores)."),
]
Address = Annotated[str | None, typer.Option(help="Address of the Ray cluster (default: the one of this machine).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
    return Path() if publish else local_path(out or "fairbench-out")


def local_path(text: str) -> Path:
    """Return the path itself, or the local mirror of a URL, whose runs and boards are fetched."""
    if "://" not in text:
        return Path(text)
    from fairbench.results import remote

    if not remote.is_url(text):  # else it would become a folder name that holds the credentials
        raise InvalidInput(f"{public(text)!r} is neither a folder nor a URL of one store")
    return remote.fetch_results(text)


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
    named = [registry.code_of_attack(text) for text in attacks]
    if model and registry.names_code(model) and not Path(model).exists():
        family = model.partition(":")[0]
        named += [model] if family not in {*registry.MODEL_SOURCES, *registry.models.names()} else []
    for place in filter(None, named):
        _announce(option, place)


def _announce(option: str, place: object) -> None:
    """Print the line on stderr, once for all of torchrun's ranks."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{option}: the code of {place} runs with your rights", file=sys.stderr)


def split_names(text: str | None) -> list[str] | None:
    """Split at commas; None stays None. Raises InvalidInput for a text without a name."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InvalidInput(f"expected comma-separated names, got {text!r}")
    return names


def split_attacks(text: str | None) -> list[str] | None:
    """Split at commas, except those between the arguments of one attack: `pgd-20:step=0.01,iterate=last,cw-30`."""
    if text is None:
        return None
    names: list[str] = []
    for piece in text.split(","):
        if "=" in piece.partition(":")[0] and names:
            names[-1] += f",{piece}"
        else:
            names.append(piece.strip())
    return names


def split_integers(text: str | None) -> list[int] | None:
    """Split at commas into integers; raises InvalidInput."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput(f"--seeds: expected comma-separated integers, got {text!r:.80}") from None


def parse_number(option: str, text: str) -> float:
    """Read a number or a fraction such as 8/255; raises InvalidInput."""
    value = registry.parse_value(text)
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (ValueError, OverflowError):  # not a number, or too large for a float
        raise InvalidInput(f"{option}: expected a number or a fraction, got {text!r:.80}") from None


def split_numbers(option: str, text: str | None) -> list[float] | None:
    """Split at commas into numbers or fractions; raises InvalidInput."""
    return None if text is None else [parse_number(option, part.strip()) for part in text.split(",")]


def parse_settings(texts: Iterable[str] | None) -> dict[str, Any]:
    """Read texts KEY=VALUE, the values as int, float, bool or text; raises InvalidInput, also for a repeated key."""
    found: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidInput(f"--set: expected KEY=VALUE, got {text!r}")
        if key in found:
            raise InvalidInput(f"--set: {key} is given twice")
        found[key] = registry.parse_value(value)
    return found


def require_writable(root: Path) -> None:
    """Raise InvalidInput if no file can be created below `root`; the file of the test is removed."""
    folder = root.absolute()
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InvalidInput(f"--out {root}: cannot be written: {error.strerror}") from None


def two_columns(rows: dict[str, str], indent: int = 0) -> str:
    """Align names and their descriptions in two columns that fit the terminal."""
    width = max(map(len, rows), default=0)
    return "\n".join(beside(f"{' ' * indent}{name:<{width}}  ", text) for name, text in rows.items())
