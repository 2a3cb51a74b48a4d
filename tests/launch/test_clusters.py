"""The scripts that start Ray on a cluster: run with a Slurm that is a few lines of shell, and read as what they are."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

CLUSTERS = Path(__file__).parents[2] / "docs" / "clusters"
SLURM = {
    "scontrol": 'for node in one two three; do echo "$node"; done',
    # srun OPTIONS --nodelist NODE COMMAND...: the command, with the node in its environment
    "srun": 'while [[ $1 == --* && $1 != --nodelist ]]; do shift; done; node=$2; shift 2; NODE=$node exec "$@"',
    "ray": 'echo "$NODE: ray $*" >> "$LOG"; exec sleep 9 > /dev/null 2>&1',
    "python": 'echo "${JOINED:-3}"',
    "fairbench": 'echo "$NODE: fairbench $*" >> "$LOG"; exit "${CODE:-0}"',
}


def _run(tmp_path: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    for name, body in SLURM.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/usr/bin/env bash\n{body}\n")
        program.chmod(0o755)
    log = tmp_path / "log"
    done = subprocess.run(
        [CLUSTERS / "slurm.sh", "run", "digits", "--set", "a.b=c d"],
        env={
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "LOG": str(log),
            "SLURM_JOB_NODELIST": "any",
            "SLURM_CPUS_PER_TASK": "8",
            "SLURM_GPUS_ON_NODE": "2",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done, sorted(log.read_text().splitlines())


def test_slurm_starts_a_head_and_workers_and_then_the_command_on_the_head(tmp_path):
    done, log = _run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    shared = "--disable-usage-stats --num-cpus 8 --num-gpus 2"
    assert log == [
        "one: fairbench run digits --set a.b=c d --launcher ray --address one:6379",
        f"one: ray start --head --block --port 6379 {shared}",
        f"three: ray start --block --address one:6379 {shared}",
        f"two: ray start --block --address one:6379 {shared}",
    ]


def test_slurm_ends_with_the_exit_code_of_the_command(tmp_path):
    assert _run(tmp_path, CODE="2")[0].returncode == 2


def test_slurm_gives_up_when_nodes_do_not_join(tmp_path):
    done, log = _run(tmp_path, JOINED="2", RAY_PATIENCE="0")
    assert done.returncode == 1
    assert done.stderr == "slurm.sh: 2 of 3 nodes joined within 0 s\n"
    assert not any("fairbench" in line for line in log)


def test_kubernetes_runs_a_command_that_there_is(monkeypatch):
    job = yaml.safe_load((CLUSTERS / "kubernetes.yaml").read_text())
    command, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert command == "fairbench"
    from typer.testing import CliRunner

    from fairbench.cli import app
    from fairbench.suite import suite_paths

    assert {word for word in arguments if word.startswith("--")} <= set(
        CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "300"}).stdout.split()
    )
    if arguments[1] not in suite_paths():
        pytest.fail(f"suite {arguments[1]} is not there")


def test_kubernetes_mounts_what_it_claims_in_every_pod():
    job = yaml.safe_load((CLUSTERS / "kubernetes.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        (volume,) = pod["spec"]["volumes"]
        assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"]]
        assert container["workingDir"] == container["volumeMounts"][0]["mountPath"]
