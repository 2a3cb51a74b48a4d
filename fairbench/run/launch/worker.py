"""One run in a process of its own: a specification on stdin, one JSON event a line on stdout, an exit code.

Started by a launcher as `python -P -m fairbench.run.launch.worker`, with the thread count already in the environment.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from fairbench.errors import FairbenchError, Interrupted

__all__ = ["run_worker"]

PR_SET_PDEATHSIG = 1


def run_worker() -> int:
    """Execute the run described on stdin; returns the exit code of its error, 0 when it is complete."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library's output must not be read as an event

    def emit(**event: Any) -> None:
        try:
            events.write(json.dumps(event) + "\n")
            events.flush()
        except BrokenPipeError:
            raise Interrupted("the launcher is gone") from None

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    _end_with_the_launcher()
    try:
        task = json.loads(sys.stdin.read())
        emit(event="progress", stage="start", done=0, total=1, note="")
        _run(task, emit)
    except (KeyboardInterrupt, Interrupted):
        return Interrupted.exit_code
    except FairbenchError as error:
        emit(event="error", message=str(error))
        return error.exit_code
    return 0


def _run(task: dict[str, Any], emit: Any) -> None:
    import torch

    from fairbench import registry
    from fairbench.run.pipeline import execute_run
    from fairbench.suites.spec import RunSpec

    spec = RunSpec.model_validate(task["spec"])
    torch.set_num_threads(spec.environment.threads)
    for plugin in spec.plugins:
        registry.add_plugin(plugin)
    execute_run(
        spec,
        Path(task["results"]),
        progress=lambda stage, done, total, note: emit(
            event="progress", stage=stage, done=done, total=total, note=note
        ),
        say=lambda text: emit(event="notice", text=text),
    )


def _end_with_the_launcher() -> None:
    """Have Linux send SIGTERM when the launcher is killed; on other systems the next event raises BrokenPipeError."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt  # no subclass of Exception, which a library might catch


if __name__ == "__main__":
    sys.exit(run_worker())
