"""The commands of the command line, and the end of a command: exit codes, one-line errors, signals."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn, TextIO

import typer

from fairbench.cli import check, evaluate, explain, leaderboard, listings, project, results, run, tune
from fairbench.cli.plain import PlainTyper
from fairbench.cli.terminal import printable
from fairbench.errors import FairbenchError, Interrupted, InvalidInput, OtherRankFailed
from fairbench.results.address import redacted
from fairbench.version import __version__

__all__ = ["app", "main"]

app = PlainTyper(
    name="fairbench",
    help="The benchmark suite for robust fairness: how robust is a classifier, class by class?",
    epilog="Example: fairbench run digits --quick. With --debug anywhere, an error shows its traceback.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"fairbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


BENCHMARK, MODELS, METHODS, NAMES = (
    "Benchmark methods",
    "Audit models",
    "Write methods",
    "Look up names and the state of this machine",
)

app.command(
    "run",
    rich_help_panel=BENCHMARK,
    epilog="Example: fairbench run digits --methods sat,absld --seeds 0,1,2 --jobs 2",
)(run.run_command)
app.command(
    "tune",
    rich_help_panel=BENCHMARK,
    epilog="Example: fairbench tune digits --methods mine --plugin mine.py",
)(tune.tune_command)
app.add_typer(leaderboard.app, name="leaderboard", rich_help_panel=BENCHMARK)
app.command("show", rich_help_panel=BENCHMARK, epilog="Example: fairbench show absld/0/best/union")(
    explain.show_row_command
)
app.command("explain", rich_help_panel=BENCHMARK, epilog="Example: fairbench explain worst_crossfit")(
    explain.explain_command
)
app.add_typer(results.app, name="results", rich_help_panel=BENCHMARK)
app.command(
    "evaluate",
    rich_help_panel=MODELS,
    epilog="Example: fairbench evaluate best.safetensors --dataset digits --eps 0.2 --attacks clean,pgd-20",
)(evaluate.evaluate_command)
app.command(
    "check",
    rich_help_panel=MODELS,
    epilog="Example: fairbench check --baseline digits --candidate fairbench-out --methods shared --seeds shared",
)(check.check_command)
app.command("new-method", rich_help_panel=METHODS, epilog="Example: fairbench new-method my_method")(
    project.new_method_command
)
app.command(
    "report",
    rich_help_panel=METHODS,
    epilog="Example: fairbench report fairbench-out/results/digits/absld/RUN --out absld.svg",
)(evaluate.report_command)
app.command("suites", rich_help_panel=NAMES, epilog="Example: fairbench suites, or fairbench suites digits")(
    listings.suites_command
)
for plural in ("methods", "policies", "datasets", "models", "attacks", "loggers"):
    app.add_typer(getattr(listings, plural), name=plural, rich_help_panel=NAMES)
app.command("doctor", rich_help_panel=NAMES, epilog="Example: fairbench doctor")(project.doctor_command)


def main() -> NoReturn:
    """Run the command line: an error becomes one line on stderr, and an exit code as documented.

    Exit code 1 means that the gate found a regression, so an unexpected error ends with 2.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    debug = "--debug" in sys.argv
    arguments = [_at_home(word) for word in sys.argv[1:] if word != "--debug"]
    _make_writable()
    _ignore_odd_sizes()
    try:
        with printable():
            code = app(arguments, prog_name="fairbench", standalone_mode=False)
            sys.stdout.flush()
    except (_Stopped, typer.Abort, Interrupted) as error:
        _fail(Interrupted("stopped; finished work is kept, and the same command continues from there"), error, debug)
    except FairbenchError as error:
        _fail(error, error, debug)
    except OSError as error:
        _fail(InvalidInput(f"{error.filename or 'file system'}: {error.strerror or error}"), error, debug)
    except OtherRankFailed as error:  # the rank that failed first reports the error
        sys.exit(error.code)
    except SystemExit as error:  # not typer's own: a plug-in or a library raised it
        _fail(InvalidInput(f"code that the command loaded called sys.exit({error.code!r})"), error, debug)
    except BaseException as error:  # a plug-in may raise a BaseException
        _fail(InvalidInput(_unexpected(error)), error, debug)
    sys.exit(code if isinstance(code, int) else 0)


def _unexpected(error: BaseException) -> str:
    """The message of a usage error, which has `format_message` whichever click typer is built on, or of a defect."""
    if hasattr(error, "format_message"):
        return error.format_message().replace("Value error, ", "") or "give a command"  # pydantic's words
    return f"unexpected {type(error).__name__}: {error}; --debug shows the traceback"


def _make_writable() -> None:
    """Replace streams that the shell has closed, as by `>&-`, and escape characters that their encoding lacks."""
    sys.stdout, sys.stderr = (stream or _nowhere() for stream in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _ignore_odd_sizes() -> None:
    """Drop $COLUMNS and $LINES if they are no size of a terminal: the libraries that print help fail on such values."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("[1-9][0-9]{0,3}", os.environ.get(name, "1")):
            del os.environ[name]


def _nowhere() -> TextIO:
    """Open a substitute for a stream that the shell has closed."""
    return Path(os.devnull).open("w", encoding="utf-8")


def _at_home(word: str) -> str:
    """Replace the `~` of `~/x` and `--out=~/x` by the home folder; a shell does not do this in quotes."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if not value.startswith("~/"):
        return word
    from fairbench.files import at_home

    return f"{option}{equals}{at_home(value)}"


def _fail(shown: FairbenchError, cause: BaseException, debug: bool) -> NoReturn:
    if debug and not isinstance(cause, SystemExit):
        traceback.print_exception(cause)
    with suppress(OSError):  # the exit code remains where stderr cannot be written
        print(f"fairbench: {redacted(' '.join(str(shown).split()))}", file=sys.stderr)
    sys.exit(shown.exit_code)


class _Stopped(BaseException):
    """A signal to stop. It is neither Exception nor KeyboardInterrupt, which a library might catch."""


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
    raise _Stopped
