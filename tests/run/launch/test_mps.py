"""MPS for one launch, with stand-ins for the workers and for NVIDIA's control program, which logs its calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stored import run_spec

from fairbench.errors import FairbenchError
from fairbench.run.launch import LogLines, launch_local, mps
from fairbench.suites.sections import Environment
from fairbench.suites.spec import RunSpec

CUDA = Environment(torch="2.15.0", device="cuda")
# A daemon is a file `up` in its folder of pipes. CUDA's default place is a folder of the test's.
CONTROL = """#!/bin/sh
pipes="${CUDA_MPS_PIPE_DIRECTORY:-$FAKE/default}"
if [ "$1" = -d ]; then
    echo "start $pipes" >> "$FAKE/calls"
    [ -e "$FAKE/broken" ] && exit 1
    touch "$pipes/up"
    exit 0
fi
read -r command
[ -e "$pipes/up" ] || exit 1
echo "$command $pipes" >> "$FAKE/calls"
case "$command" in quit*) rm "$pipes/up" ;; esac
"""
# The probe is `-P -c PROBE`; a worker is `-P -m fairbench.run.launch.worker`.
WORKER = """#!{python}
import json, os, signal, sys, time
if "-c" in sys.argv:
    {probe}
    sys.exit(0)
pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "")
with open(os.environ["FAKE"] + "/workers", "a") as log:
    log.write(f"{{pipes}} {{bool(pipes) and os.path.exists(pipes + '/up')}}\\n")
json.loads(sys.stdin.read())
{code}
"""


class Fake:
    """A folder with the stand-in, and what it and the workers have written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def calls(self) -> list[str]:
        return self.lines("calls")

    @property
    def started(self) -> Path:
        """The folder of pipes of the one daemon that was started."""
        (pipes,) = [line.removeprefix("start ") for line in self.calls if line.startswith("start ")]
        return Path(pipes)

    def ended(self) -> bool:
        """Whether the daemon was told to quit after all else, and its folder is gone."""
        return self.calls[-1] == f"quit -t 10 {self.started}" and not self.started.parent.exists()


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Fake:
    folder = tmp_path / "fake"
    (folder / "bin").mkdir(parents=True)
    (folder / "default").mkdir()
    monkeypatch.setattr(mps, "DEFAULT_PIPES", folder / "default")
    control = folder / "bin" / mps.CONTROL
    control.write_text(CONTROL)
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))
    for name in (mps.PIPES, mps.LOGS, mps.OPT_OUT):
        monkeypatch.delenv(name, raising=False)
    return Fake(folder)


@pytest.fixture
def workers(tmp_path, monkeypatch) -> Callable[..., None]:
    """Return `workers(code, probe)`: install programs that run in place of the workers and of the probe."""

    def install(code: str = "", probe: str = "pass") -> None:
        program = tmp_path / "python"
        program.write_text(WORKER.format(python=sys.executable, code=code, probe=probe))
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return install


def _specs(count: int = 2, **changes: Any) -> list[RunSpec]:
    return [run_spec(seed=seed, **{"environment": CUDA, **changes}) for seed in range(count)]


def _launch(specs: list[RunSpec], jobs: int = 2) -> None:
    launch_local(specs, Path("nowhere"), jobs=jobs, view=LogLines())


def test_workers_of_one_gpu_share_it_by_a_daemon_that_ends_with_the_launch(fake, workers, capfd):
    workers()
    _launch(_specs(3))
    assert fake.lines("workers") == [f"{fake.started} True"] * 3
    assert fake.calls == [f"start {fake.started}", f"quit -t 10 {fake.started}"]
    assert fake.ended()
    assert len(str(fake.started)) < 80
    assert "MPS" not in capfd.readouterr().err


@pytest.mark.parametrize("code", ["sys.exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_daemon_ends_after_a_worker_failed_or_was_killed(fake, workers, code):
    workers(code)
    with pytest.raises(FairbenchError, match=r"2 of 2 runs failed"):
        _launch(_specs())
    assert fake.ended()


LAUNCHER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from stored import run_spec
from fairbench.run.launch import LogLines, launch_local
from fairbench.suites.sections import Environment
sys.executable = {program!r}
cuda = Environment(torch="2.15.0", device="cuda")
launch_local([run_spec(seed=seed, environment=cuda) for seed in (0, 1)], Path("x"), jobs=2, view=LogLines())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_daemon_ends_when_the_launcher_is_stopped_or_killed(fake, workers, number):
    python = sys.executable
    workers("time.sleep(20)")
    code = LAUNCHER.format(tests=str(Path(__file__).parents[2]), program=sys.executable)
    with subprocess.Popen([python, "-c", code], stderr=subprocess.DEVNULL) as launcher:
        _wait_until(lambda: len(fake.lines("workers")) == 2)
        launcher.send_signal(number)
        assert launcher.wait(15) != 0
        _wait_until(fake.ended)


def _wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_daemon_of_the_users_choice_is_used_and_not_touched(fake, workers, monkeypatch, tmp_path):
    monkeypatch.setenv(mps.PIPES, str(tmp_path / "theirs"))
    workers()
    _launch(_specs())
    assert fake.calls == []
    assert fake.lines("workers") == [f"{tmp_path / 'theirs'} False"] * 2


def test_a_daemon_at_the_default_place_is_used_and_not_touched(fake, workers):
    (fake.folder / "default" / "up").touch()
    workers()
    _launch(_specs())
    assert fake.calls == [f"get_server_list {fake.folder / 'default'}"]
    assert fake.lines("workers") == [" False"] * 2
    assert (fake.folder / "default" / "up").exists()


def test_without_a_folder_at_the_default_place_nobody_is_asked(fake, workers):
    (fake.folder / "default" / "up").touch()
    (fake.folder / "default").rename(fake.folder / "away")
    workers()
    _launch(_specs())
    assert fake.ended()


def test_a_daemon_that_does_not_start_is_one_line(fake, workers, capfd):
    (fake.folder / "broken").touch()
    workers()
    _launch(_specs())
    assert fake.lines("workers") == [" False"] * 2
    assert not fake.started.parent.exists()
    assert capfd.readouterr().err.startswith(
        "runs take turns on the GPU: MPS is installed, but nvidia-cuda-mps-control ended with exit code 1\n"
    )


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        ("raise RuntimeError('CUDA error: MPS client failed\\nmore')", "RuntimeError: CUDA error: MPS client failed"),
        ("sys.exit(4)", "exit code 4"),
    ],
)
def test_a_daemon_whose_clients_fail_is_ended_before_the_runs(fake, workers, capfd, probe, reason):
    workers(probe=probe)
    _launch(_specs())
    assert fake.lines("workers") == [" False"] * 2
    assert fake.ended()
    assert f"MPS is installed, but a client fails: {reason}\n" in capfd.readouterr().err


def test_a_probe_that_hangs_is_given_up(fake, workers, capfd, monkeypatch):
    monkeypatch.setattr(mps, "PROBE_SECONDS", 1.0)
    workers(probe="time.sleep(30)")
    _launch(_specs())
    assert fake.ended()
    assert "a client did not reach the GPU in 1 s\n" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("count", "jobs", "changes"),
    [(2, 1, {}), (1, 4, {}), (2, 2, {"environment": Environment(torch="2.15.0")})],
    ids=["one job", "one run", "no GPU"],
)
def test_nothing_is_started_where_nothing_is_shared(fake, workers, count, jobs, changes):
    workers()
    _launch(_specs(count, **changes), jobs)
    assert fake.calls == []


def test_the_environment_turns_it_off(fake, workers, monkeypatch):
    monkeypatch.setenv(mps.OPT_OUT, "0")
    workers()
    _launch(_specs())
    assert fake.calls == []


def test_a_machine_without_mps_has_nothing_to_say(workers, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(mps.shutil, "which", lambda _: None)
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.delenv(mps.PIPES, raising=False)
    workers()
    _launch(_specs())
    assert "MPS" not in capfd.readouterr().err
    assert Fake(tmp_path).lines("workers") == [" False"] * 2
