"""One GPU for several worker processes: NVIDIA's Multi-Process Service (MPS), where it is found.

Processes without MPS take turns on a GPU; with it their kernels run side by side. A launch starts a control daemon of
its own in a temporary folder and ends it. A daemon that somebody else started serves the workers as it is. No setting
of the GPU is changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from fairbench.suites.spec import RunSpec

__all__ = ["CONTROL", "OPT_OUT", "shared_gpu"]

CONTROL = "nvidia-cuda-mps-control"
OPT_OUT = "FAIRBENCH_MPS"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
DEFAULT_PIPES = Path("/tmp/nvidia-mps")
CONTROL_SECONDS = 15.0
PROBE_SECONDS = 60.0
PROBE = "import torch; torch.zeros(1, device='cuda').item()"
# The keeper waits until the launcher closes its stdin, which also happens when the launcher is killed, and then ends
# the daemon. Clients that still run get 10 seconds.
KEEPER = f'read -r _; echo "quit -t 10" | {CONTROL} >/dev/null 2>&1; rm -rf -- "$1"'
KEEPER_SECONDS = 30.0


@contextmanager
def shared_gpu(specs: Sequence[RunSpec], jobs: int, say: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Yield the environment variables by which workers share the GPU; empty if there is nothing to set.

    A daemon is started if at least two runs use CUDA, `jobs` is above 1 and MPS is found, unless FAIRBENCH_MPS=0. It
    ends with the block, and with this process if that is killed. `say` receives one line if MPS fails, and the workers
    take turns then.
    """
    runs = sum(spec.environment.device == "cuda" for spec in specs)
    wanted = min(jobs, runs) > 1 and os.environ.get(OPT_OUT) != "0" and shutil.which(CONTROL)
    if not wanted or PIPES in os.environ or _answers():
        yield {}
        return
    with _daemon() as (settings, failure):
        failure = failure or _failure_of_probe(settings)
        if failure is None:
            yield settings
            return
    say(f"runs take turns on the GPU: MPS is installed, but {failure}")
    yield {}


def _answers() -> bool:
    """Tell whether a control daemon of somebody else answers at CUDA's default place."""
    return DEFAULT_PIPES.is_dir() and _control(["get_server_list"], os.environ) is None


@contextmanager
def _daemon() -> Iterator[tuple[dict[str, str], str | None]]:
    """Yield the settings of a new daemon's clients, and the reason if it did not start; the daemon ends on exit."""
    # The path of a socket has at most 107 bytes, which a folder of TMPDIR may exceed.
    folder = Path(tempfile.mkdtemp(prefix="mps-", dir="/tmp"))
    settings = {PIPES: str(folder / "pipe"), LOGS: str(folder / "log")}
    (folder / "pipe").mkdir()
    (folder / "log").mkdir()
    with subprocess.Popen(
        ["/bin/sh", "-c", KEEPER, "keeper", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **settings},
        start_new_session=True,  # Ctrl-C in a terminal must not end the keeper before the daemon
    ) as keeper:
        try:
            yield settings, _control(None, {**os.environ, **settings})
        finally:
            assert keeper.stdin is not None
            keeper.stdin.close()
            try:
                keeper.wait(KEEPER_SECONDS)
            except subprocess.TimeoutExpired:
                keeper.kill()
                shutil.rmtree(folder, ignore_errors=True)


def _control(command: Sequence[str] | None, environment: Mapping[str, str]) -> str | None:
    """Start a daemon, or send a command to the running one; return why that failed, None if it succeeded."""
    words = [CONTROL, "-d"] if command is None else [CONTROL]
    try:
        done = subprocess.run(
            words,
            input="" if command is None else "\n".join(command) + "\n",
            text=True,
            stdout=subprocess.DEVNULL,  # a pipe would stay open as long as the daemon runs
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=CONTROL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{CONTROL} did not answer in {CONTROL_SECONDS:.0f} s"
    except OSError as error:
        return f"{CONTROL} cannot be run: {error.strerror}"
    return f"{CONTROL} ended with exit code {done.returncode}" if done.returncode else None


def _failure_of_probe(settings: Mapping[str, str]) -> str | None:
    """Use the GPU from a new process, as a client of the daemon; return why that failed, None if it did not.

    In a container a daemon may start whose clients fail.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **settings},
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"a client did not reach the GPU in {PROBE_SECONDS:.0f} s"
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.partition(":")[0]] or lines
    return f"a client fails: {errors[-1][:200] if errors else f'exit code {done.returncode}'}"
