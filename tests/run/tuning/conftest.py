"""A finished tuning of the tiny suite, which the tests of this folder read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tunings import TUNING, choices

from fairbench.run import benchmark
from fairbench.run.pipeline import execute_run
from fairbench.run.tuning import tune
from fairbench.suites.spec import RunSpec


@pytest.fixture(autouse=True)
def _in_this_process(launched: list[RunSpec]) -> None:
    """Every test of this folder launches runs in its own process."""


@pytest.fixture(scope="package")
def suite(make_suite: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny suite, with tuning: its images are held out of all methods' training alike."""
    folder = tmp_path_factory.mktemp("suite")
    plain = yaml.safe_load(make_suite(folder).read_text())
    return str(make_suite(folder, data={**plain["data"], "hold_out_alike": True}, tuning=TUNING))


@pytest.fixture(scope="package")
def tuned(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a finished tuning of the suite's two methods; to be read, not changed."""
    root = tmp_path_factory.mktemp("tuned")
    said: list[str] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            benchmark, "launch_local", lambda specs, results, **_: [execute_run(spec, results) for spec in specs]
        )
        tune(suite, root=root, say=said.append)
    torch.set_num_threads(threads)
    assert [line.partition(":")[0] for line in choices(said)] == ["teacher", "sat", "absld"]
    return root
