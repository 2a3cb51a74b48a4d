"""The scripts that start Ray on a cluster: run with a Slurm of a few lines of shell, and parsed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTERS = Path(__file__).parents[3] / "docs" / "clusters"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
SLURM = {
    "scontrol": 'for node in one two three; do echo "$node"; done',
    # srun OPTIONS --nodelist NODE COMMAND...: the command, with the node in its environment
    "srun": 'while [[ $1 == --* && $1 != --nodelist ]]; do shift; done; node=$2; shift 2; NODE=$node exec "$@"',
    "ray": 'echo "$NODE: ray $*" >> "$LOG"; [[ -n ${DIES:-} ]] && exit 1; exec sleep 9 > /dev/null 2>&1',
    # the nodes that have joined: those whose `ray` has written its line, as late as they do
    "python": 'echo "${JOINED:-$(grep -c ": ray start" "$LOG")}"',
    "fairbench": 'echo "$NODE: fairbench $*" >> "$LOG"; exit "${CODE:-0}"',
}


def _run(tmp_path: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    for name, body in SLURM.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/usr/bin/env bash\n{body}\n")
        program.chmod(0o755)
    log = tmp_path / "log"
    log.touch()
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


def test_slurm_gives_up_at_once_when_the_head_has_ended(tmp_path):
    done, log = _run(tmp_path, JOINED="0", DIES="1")
    assert (done.returncode, done.stderr) == (1, "slurm.sh: Ray's head on one has ended\n")
    assert not any("fairbench" in line for line in log)


def test_kubernetes_runs_a_command_that_there_is(monkeypatch):
    job = yaml.safe_load((CLUSTERS / "kubernetes.yaml").read_text())
    command, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert command == "fairbench"
    from typer.testing import CliRunner

    from fairbench.cli import app
    from fairbench.suites.suite import suite_paths

    assert {word for word in arguments if word.startswith("--")} <= set(
        CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "300"}).stdout.split()
    )
    if arguments[1] not in suite_paths():
        pytest.fail(f"suite {arguments[1]} is not there")


def _pods() -> list[dict[str, Any]]:
    """The pod templates of the job: the head's, and those of its groups of workers."""
    job = yaml.safe_load((CLUSTERS / "kubernetes.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


def test_kubernetes_mounts_what_it_claims_in_every_pod():
    for pod in _pods():
        (container,) = pod["spec"]["containers"]
        (volume,) = pod["spec"]["volumes"]
        assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"]]
        assert container["workingDir"] == container["volumeMounts"][0]["mountPath"]


def test_kubernetes_pods_are_as_its_published_schemas_say():
    schemas = pytest.importorskip(
        "kubernetes_validate", reason="Kubernetes' schemas are not here: pip install kubernetes-validate"
    )

    def check(pod: dict[str, Any]) -> None:
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **pod}
        schemas.validate(whole, schemas.latest_version(), strict=True)

    head, *_ = pods = _pods()
    for pod in pods:
        check(pod)
    head["spec"]["containers"][0]["volumeMount"] = []  # not what the setting is called
    with pytest.raises(schemas.ValidationError, match="volumeMount"):
        check(head)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::ray")
@pytest.mark.parametrize(
    "cluster", [{"num_cpus": 0, "include_dashboard": True, "env_vars": {"PATH": PATH}}], indirect=True
)
def test_the_command_of_the_kubernetes_job_runs_when_submitted_as_the_operator_does(cluster, make_suite, tmp_path):
    pytest.importorskip("aiohttp_cors", reason="jobs are submitted to Ray's dashboard: pip install 'ray[default]'")
    cluster.add_node(num_cpus=1)  # the head of the file has no CPUs for runs either
    suite = make_suite(tmp_path / "suite", methods=["sat"])
    job = yaml.safe_load((CLUSTERS / "kubernetes.yaml").read_text())
    own = {"cifar10": str(suite), "/shared/out": str(tmp_path / "out")}
    command = [own.pop(word, word) for word in shlex.split(job["spec"]["entrypoint"])]
    assert own == {}
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", f"http://{cluster.webui_url}"]
    done = subprocess.run([*submit, "--", *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "out" / "leaderboards" / "tiny" / "v1.csv").exists()
    assert len(list((tmp_path / "out").glob("results/tiny/sat/*/run.json"))) == 1
