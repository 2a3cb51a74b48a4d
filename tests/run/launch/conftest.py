"""A real Ray cluster on this machine, and the command that uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def cluster(own_handlers, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A head node of one CPU, to which tests may add nodes; this process keeps its signal handlers.

    A parameter of the test replaces the arguments of the head node.
    """
    pytest.importorskip("ray", reason="the ray launcher is an extra: pip install 'robust-fairbench[ray]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, **getattr(request, "param", {})},
    )
    yield cluster
    cluster.shutdown()


@pytest.fixture
def fairbench(tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return `fairbench(*arguments) -> process`, whose stderr is a pipe."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, cwd: Path = tmp_path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fairbench.cli", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
