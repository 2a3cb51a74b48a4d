"""docs/clusters/slurm.sh through a real Slurm: munge, a controller and two nodes, started here and ended here."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import MEASURED, ended

from fairbench.leaderboard.board import load_leaderboard

SCRIPT = Path(__file__).parents[3] / "docs" / "clusters" / "slurm.sh"
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare")
BELOW_RAYS_WORKERS = range(7000, 10_000)
CONFIGURATION = """
ClusterName=tiny
SlurmctldHost={first}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
NodeName={first} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName={first}-two NodeHostname={first}-two NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES State=UP
"""
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"

pytest.importorskip("ray", reason="the script starts Ray: pip install 'robust-fairbench[ray]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(shutil.which(name, path=PATH) is None for name in DAEMONS),
        reason="Slurm is not installed: apt-get install slurmctld slurmd slurm-client munge",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons are started as root here"),
]


def _free(ports: range) -> int:
    """One of these ports on which nothing listens."""
    for port in ports:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port")


@pytest.fixture
def slurm(tmp_path) -> Iterator[dict[str, str]]:
    """The environment in which `sbatch` reaches a Slurm of two nodes, the second under another name of this machine."""
    folder, first = tmp_path / "slurm", socket.gethostname().partition(".")[0]
    (folder / "state").mkdir(parents=True)
    (folder / first).mkdir()
    (folder / f"{first}-two").mkdir()
    ports = [_free(range(start, start + 500)) for start in (16_000, 16_500, 17_000)]
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, first=first, ports=ports))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    own = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid"}
    own |= {"log-file": folder / "munged.log", "seed-file": folder / "munged.seed"}
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    commands = [
        ["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in own.items())],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D", "-N", first],
        ["unshare", "--uts", "sh", "-c", f"hostname {first}-two && exec slurmd -D -N {first}-two"],
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            daemons.append(subprocess.Popen(command, env=environment, **quiet))
            _until(lambda: own["socket"].exists())
        _until(lambda: _said(environment, "sinfo", "--noheader", "--format=%D %t") == "2 idle")
        yield environment
    finally:
        if len(daemons) == len(commands):
            _said(environment, "scancel", "--user=root")
            _until(lambda: not _said(environment, "squeue", "--noheader"))
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def _said(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def _until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline, "Slurm did not come up, or go down, within a minute"
        time.sleep(0.2)


def test_a_suite_through_slurm_is_that_of_the_local_launcher(slurm, make_suite, tmp_path, fairbench):
    sweep = ["run", str(make_suite(tmp_path / "suite")), "--seeds", "0,1"]
    log = tmp_path / "log"
    options = ["--wait", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", f"--output={log}"]
    submitted = subprocess.run(
        ["sbatch", *options, SCRIPT, *sweep, "--out", "out"],
        cwd=tmp_path,
        env={**slurm, "RAY_PORT": str(_free(BELOW_RAYS_WORKERS))},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert submitted.returncode == 0, log.read_text()[-3000:]
    local = ended(fairbench(*sweep, "--out", "local", "--jobs", "2"))
    assert local.code == 0, local.err[-5:]
    roots = [tmp_path / name for name in ("out", "local")]
    frames = [load_leaderboard(root / "leaderboards" / "tiny" / "v1.csv") for root in roots]
    assert len(frames[0]) > 20
    assert len({frame.drop(columns=MEASURED).to_csv() for frame in frames}) == 1
    weights = [sorted(root.glob("results/*/*/*/*.safetensors")) for root in roots]
    assert len(weights[0]) == 10
    assert [path.read_bytes() for path in weights[0]] == [path.read_bytes() for path in weights[1]]
