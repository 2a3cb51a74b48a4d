"""`fairbench tune`: find every method's settings with the same number of trials, on held-out images."""

from __future__ import annotations

import os
import shlex
import sys
from functools import partial
from typing import Annotated, Literal

import typer

from fairbench.cli.options import (
    Address,
    Jobs,
    Methods,
    Out,
    Plugins,
    Publish,
    SuiteName,
    add_plugins,
    command_line,
    require_writable,
    root_folder,
    split_integers,
    split_names,
)
from fairbench.errors import InvalidInput

__all__ = ["tune_command"]


def tune_command(
    suite: SuiteName,
    methods: Methods = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials of each method (default: the suite's).")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Comma-separated seeds of the trials (default: the suite's).")
    ] = None,
    jobs: Jobs = None,
    launcher: Annotated[Literal["local", "ray"], typer.Option(help="Processes here, or a Ray cluster.")] = "local",
    address: Address = None,
    show: Annotated[bool, typer.Option("--show", help="Print the scores of finished trials; run nothing.")] = False,
    out: Out = None,
    publish: Publish = False,
    plugin: Plugins = None,
) -> None:
    """Choose every method's settings by trials on held-out images; finished trials are not run again."""
    from fairbench.results import remote
    from fairbench.run import tuning

    add_plugins(plugin)
    if remote.is_url(out):
        raise InvalidInput(f"--out {out}: tuning writes to a folder, not to a URL")
    root = root_folder(out, publish)
    require_writable(root)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InvalidInput("torchrun's ranks work on one run at a time: tune with --jobs or --launcher ray")
    if not show:
        tuning.tune(
            suite,
            methods=split_names(methods),
            trials=trials,
            seeds=split_integers(seeds),
            jobs=jobs,
            root=root,
            launcher=launcher,
            address=address,
            plugins=[str(path.resolve()) for path in plugin or ()],
            command=command_line(),
            say=partial(print, file=sys.stderr),
        )
    print(tuning.render_trials(suite, root, split_names(methods)))
    if not show:
        words = [("--methods", methods), *(("--plugin", str(path)) for path in plugin or ()), ("--out", out)]
        given = [word for option, value in words if value for word in (option, value)] + ["--publish"] * publish
        print(
            f"\nNext: {shlex.join(['fairbench', 'run', suite, '--seeds', '0,1,2', *given])}   rank with these settings"
        )
