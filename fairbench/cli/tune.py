"""`fairbench tune`: choose every method's settings with the same number of trials, on held-out images."""

from __future__ import annotations

import os
import shlex
import sys
from functools import partial
from typing import Annotated, Any, Literal

import typer

from fairbench.cli.options import (
    Address,
    Jobs,
    Logs,
    Methods,
    Plugins,
    SuiteName,
    add_plugins,
    announce_loggers,
    check_address,
    command_line,
    root_folder,
)
from fairbench.cli.values import split_integers, split_names
from fairbench.errors import InvalidInput
from fairbench.results.address import public

__all__ = ["tune_command"]


def tune_command(
    suite: SuiteName,
    methods: Methods = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=100_000, help="Trials of each method (default: the suite's).")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N", help="Comma-separated seeds of the trials (default: the suite's).")
    ] = None,
    jobs: Jobs = None,
    launcher: Annotated[
        Literal["local", "ray"],
        typer.Option(metavar="NAME", help="local: processes on this machine; ray: a Ray cluster."),
    ] = "local",
    address: Address = None,
    show: Annotated[bool, typer.Option("--show", help="Print the scores of finished trials; run nothing.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the trials of each method and an estimate of the time left; run nothing."
        ),
    ] = False,
    log: Logs = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Folder of trials, chosen settings and their runs (default: ./fairbench-out)."
        ),
    ] = None,
    publish: Annotated[
        bool,
        typer.Option("--publish", help="Write scores and settings to the committed ./tuning, runs to ./results."),
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Choose every method's settings by trials on held-out images; finished trials are not run again."""
    from fairbench.files import require_writable
    from fairbench.results import remote
    from fairbench.run import tuning

    check_address(address, launcher)
    add_plugins(plugin)
    announce_loggers(log)
    if show and dry_run:
        raise InvalidInput("give --show or --dry-run, not both")
    if remote.is_url(out):
        raise InvalidInput(f"--out {public(str(out))}: tuning writes to a folder, not to a URL")
    root = root_folder(out, publish)
    require_writable(root, "--out")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InvalidInput("torchrun's ranks work on one run at a time: tune with --jobs or --launcher ray")
    chosen = split_names(methods)
    if show:
        print(tuning.render_trials(suite, root, chosen))
        return
    choice: dict[str, Any] = {
        "methods": chosen,
        "trials": trials,
        "seeds": split_integers(seeds),
        "root": root,
        "plugins": [str(path.resolve()) for path in plugin or ()],
        "command": command_line(),
    }
    if dry_run:
        print(tuning.render_plan(suite, jobs=jobs or os.cpu_count() or 1, launcher=launcher, **choice))
        return
    say = partial(print, file=sys.stderr)
    tuning.tune(suite, jobs=jobs, launcher=launcher, address=address, say=say, **choice)
    print(tuning.render_trials(suite, root, chosen))
    words = [("--methods", methods), *(("--plugin", str(path)) for path in plugin or ()), ("--out", out)]
    given = [word for option, value in words if value for word in (option, value)] + ["--publish"] * publish
    print(f"\nNext: {shlex.join(['fairbench', 'run', suite, '--seeds', '0,1,2', *given])}   rank with these settings")
