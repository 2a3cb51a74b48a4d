"""The command line: parse, call, render. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from fairbench import registry
from fairbench.errors import FairbenchError, Interrupted, InvalidInput

__all__ = ["app", "main"]

app = typer.Typer(
    name="fairbench",
    help="The benchmark suite for robust fairness: which classes does a classifier protect, and which does it betray?",
    epilog="Example: fairbench run digits --quick. With --debug anywhere, an error shows its traceback.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
boards = typer.Typer(
    help="Build and read leaderboards.", epilog="Example: fairbench leaderboard show digits", no_args_is_help=True
)
app.add_typer(boards, name="leaderboard")

Out = Annotated[Path | None, typer.Option("--out", help="Folder for results and leaderboards [./fairbench-out].")]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="Python file with plug-ins; its code runs with your rights.")
]
Publish = Annotated[bool, typer.Option("--publish", help="Use the committed ./results and ./leaderboards.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog="Example: fairbench run digits --methods sat,absld --seeds 0,1,2 --jobs 2")
def run(
    suite: Annotated[str, typer.Argument(help="Name of a suite, or a YAML file.")],
    methods: Annotated[str | None, typer.Option(help="Comma-separated names, base+policy+policy, or all.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated integers.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, e.g. absld.temperature_rate=0.05.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs side by side, one thread each [cores].")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke test under a protocol of its own, never ranked.")
    ] = False,
    out: Out = None,
    publish: Publish = False,
    plugin: Plugins = None,
) -> None:
    """Train, select and evaluate a suite's methods, then show its leaderboard; finished runs are not run again."""
    from fairbench import benchmark

    _add_plugins(plugin)
    board = benchmark.run(
        suite,
        methods=_names(methods),
        seeds=_integers(seeds),
        overrides=dict(_setting(text) for text in set_ or ()),
        jobs=jobs,
        quick=quick,
        root=_root(out, publish),
        plugins=[str(path.resolve()) for path in plugin or ()],
        command=shlex.join(["fairbench", *sys.argv[1:]]),
    )
    _print_board(board)


@app.command(epilog="Example: fairbench evaluate best.safetensors --dataset digits --eps 0.2 --attacks clean,pgd-20")
def evaluate(
    model: Annotated[str, typer.Argument(help="A checkpoint file that a run wrote.")],
    dataset: Annotated[str, typer.Option(help="Name, npz:TRAIN,TEST or folder:DIR.")],
    attacks: Annotated[str | None, typer.Option(help="Comma-separated [clean,fgsm,pgd-20,cw-30,autoattack].")] = None,
    norm: Annotated[str, typer.Option(help="Linf or L2.")] = "Linf",
    eps: Annotated[str, typer.Option(help="Perturbation budget in [0,1] pixel units.")] = "8/255",
    batch_size: Annotated[int, typer.Option(min=1)] = 250,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write report.json and verdicts.npz to.")] = None,
    json_: AsJson = False,
) -> None:
    """Attack any checkpoint and say which class it betrays."""
    from fairbench import audit
    from fairbench.report import table

    report = audit.audit(
        model,
        dataset,
        attacks=_attacks(attacks),
        norm=norm,
        eps=_number("--eps", eps),
        batch_size=batch_size,
        seed=seed,
        out=out,
    )
    print(json.dumps(audit.as_dict(report), indent=1) if json_ else table.audit(report))


@boards.command("build", epilog="Example: fairbench leaderboard build digits")
def build(suite: str, out: Out = None, publish: Publish = False) -> None:
    """Rebuild a suite's leaderboards from its run folders."""
    from fairbench import leaderboard

    root = _root(out, publish)
    for path in leaderboard.build(root / "results", root / "leaderboards", suite):
        print(path)


@boards.command("show", epilog="Example: fairbench leaderboard show digits")
def show(
    board: Annotated[str, typer.Argument(help="A suite's name, or a leaderboard CSV.")],
    out: Out = None,
    publish: Publish = False,
    json_: AsJson = False,
) -> None:
    """Show a leaderboard: average, worst class and NSD under each attack, with 95 % intervals."""
    from fairbench import benchmark

    path = benchmark.find_board(board, _root(out, publish))
    if json_:
        from fairbench.leaderboard import load_leaderboard

        print(load_leaderboard(path).to_json(orient="records", indent=1))
    else:
        _print_board(path)


def _listing(registered: registry.Registry[Any], plural: str) -> typer.Typer:
    """A command that lists a registry, with `show NAME` below it; listing imports no plug-in and no torch."""
    group = typer.Typer(
        help=f"List {plural}, or show one.", epilog=f"Example: fairbench {plural}", invoke_without_command=True
    )

    @group.callback()
    def listing(context: typer.Context, plugin: Plugins = None, json_: AsJson = False) -> None:
        _add_plugins(plugin)
        if context.invoked_subcommand is None:
            rows = {name: str(entry.details.get("summary") or "") for name, entry in registered.scan().items()}
            print(json.dumps(rows, indent=1) if json_ else _two_columns(rows))

    @group.command("show", epilog=f"Example: fairbench {plural} show NAME")
    def show_one(name: str, plugin: Plugins = None, json_: AsJson = False) -> None:
        """Show what is known about one name."""
        from fairbench import catalogue

        _add_plugins(plugin)
        facts = catalogue.describe(registered, name)
        print(json.dumps(facts, indent=1, default=str) if json_ else catalogue.render(facts))

    return group


methods = _listing(registry.methods, "methods")
datasets = _listing(registry.datasets, "datasets")
app.add_typer(methods, name="methods")
app.add_typer(_listing(registry.policies, "policies"), name="policies")
app.add_typer(datasets, name="datasets")
app.add_typer(_listing(registry.models, "models"), name="models")
app.add_typer(_listing(registry.attacks, "attacks"), name="attacks")


@methods.command("check", epilog="Example: fairbench methods check my_method --plugin my_method.py")
def check_method(name: str, plugin: Plugins = None) -> None:
    """Drive a method through every hook on generated data and say what it breaks."""
    from fairbench import conformance

    _add_plugins(plugin)
    findings = conformance.check(name)
    for finding in findings:
        print(finding)
    if not all(finding.passed for finding in findings):
        raise InvalidInput(f"method {name} fails {sum(not finding.passed for finding in findings)} checks")


@datasets.command("get", epilog="Example: fairbench datasets get cifar10")
def get_dataset(name: str) -> None:
    """Download a data set and verify it."""
    from fairbench.data import download

    data = download(name)
    print(f"{data.name}: {len(data.train)} training and {len(data.test)} test images, {data.num_classes} classes")


@app.command(epilog="Example: fairbench suites, or fairbench suites digits")
def suites(name: Annotated[str | None, typer.Argument(help="Show this suite whole.")] = None) -> None:
    """List suites, or show one."""
    from fairbench.config import load_suite, suite_paths

    if name is None:
        print(_two_columns({known: load_suite(known).summary for known in suite_paths()}))
    else:
        print(load_suite(name).model_dump_json(indent=1))


@app.command(epilog="Example: fairbench report fairbench-out/results/digits/absld/RUN --out absld.svg")
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Option("--out", help="Picture to write: .svg, .png or .pdf.")] = Path("report.svg"),
) -> None:
    """Plot a run's class-wise state (temperatures, weights, margins) over its epochs."""
    from fairbench.report import history

    vectors = history.draw(run, out)
    print(f"{out}: {', '.join(vectors) if vectors else 'this method keeps no class-wise state'}")


@app.command("new-method", epilog="Example: fairbench new-method my_method")
def new_method(
    name: str, folder: Annotated[Path, typer.Option(help="Where methods/ and tests/ are.")] = Path()
) -> None:
    """Write methods/NAME.py and its test, both of which pass as they are."""
    from fairbench import scaffold

    for path in scaffold.new_method(name, folder):
        print(path)


@app.command(epilog="Example: fairbench doctor")
def doctor(json_: AsJson = False) -> None:
    """Report versions, devices and data, what is missing, and the command that gets it."""
    from fairbench import doctor as examination

    facts = examination.examine()
    print(json.dumps(facts, indent=1) if json_ else examination.render(facts))


def main() -> NoReturn:
    """Run the command line; errors are one line on stderr and exit codes those of the documentation."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except (_Stopped, typer.Abort, Interrupted) as error:
        _fail(Interrupted("interrupted; what was finished is kept, the same command goes on from there"), error, debug)
    except FairbenchError as error:
        _fail(error, error, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(InvalidInput(f"{error.filename or 'file system'}: {error.strerror or error}"), error, debug)
    except Exception as error:
        if not hasattr(error, "format_message"):  # the mark of a usage error, whichever click typer is built on
            raise
        _fail(InvalidInput(error.format_message() or "give a command"), error, debug)


def _fail(shown: FairbenchError, cause: BaseException, debug: bool) -> NoReturn:
    if debug:
        raise cause
    print(f"fairbench: {' '.join(str(shown).split())}", file=sys.stderr)
    sys.exit(shown.exit_code)


class _Stopped(BaseException):
    """A signal to stop; neither Exception nor KeyboardInterrupt, so that no library on the way makes it its own."""


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second one must not break into the tidying up
    raise _Stopped


def _root(out: Path | None, publish: bool) -> Path:
    if out is not None and publish:
        raise InvalidInput("give --out or --publish, not both")
    return Path() if publish else out or Path("fairbench-out")


def _add_plugins(paths: list[Path] | None) -> None:
    for path in paths or ():
        registry.add_plugin(path)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _attacks(text: str | None) -> list[str] | None:
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


def _integers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput(f"--seeds: expected comma-separated integers, got {text!r}") from None


def _number(option: str, text: str) -> float:
    value = registry.parse_value(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"{option}: expected a number or a fraction, got {text!r}")
    return float(value)


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidInput(f"--set: expected KEY=VALUE, got {text!r}")
    return key, registry.parse_value(value)


def _two_columns(rows: dict[str, str]) -> str:
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows.items())


def _print_board(path: Path) -> None:
    from fairbench.leaderboard import load_leaderboard
    from fairbench.report import table

    print(table.leaderboard(load_leaderboard(path), ranked=".custom-" not in path.name))
    print(f"\n{path}")


if __name__ == "__main__":
    main()
