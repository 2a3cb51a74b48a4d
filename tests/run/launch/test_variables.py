from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairbench.run.launch.variables import worker_variables

COMPILATION = """
import json, torch
from torch._dynamo.utils import counters
compiled = torch.compile(torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU()))
compiled(torch.ones(2, 3))
print(json.dumps({name: counters["inductor"][name] for name in ("fxgraph_cache_hit", "fxgraph_cache_miss")}))
"""


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_a_worker_has_our_variables_its_threads_and_private_folders_of_compiled_code(tmp_path, monkeypatch):
    monkeypatch.setenv("MINE", "1")
    variables = worker_variables(3)
    folder = tmp_path / ".cache" / "fairbench" / "compiled"
    assert variables["MINE"] == "1"
    assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "3"
    assert variables["TORCHINDUCTOR_CACHE_DIR"] == str(folder / "inductor")
    assert variables["TRITON_CACHE_DIR"] == str(folder / "triton")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "TORCHINDUCTOR_COMPILE_THREADS" not in variables


def test_the_users_folders_stay(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "there")
    monkeypatch.setenv("TRITON_CACHE_DIR", "elsewhere")
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "7")
    variables = worker_variables(1, jobs=2)
    assert variables["TORCHINDUCTOR_CACHE_DIR"] == "there"
    assert variables["TRITON_CACHE_DIR"] == "elsewhere"
    assert variables["TORCHINDUCTOR_COMPILE_THREADS"] == "7"


@pytest.mark.parametrize(("jobs", "expected"), [(2, "8"), (6, "2"), (40, "1")])
def test_jobs_share_the_processors_for_compiling(monkeypatch, jobs, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert worker_variables(1, jobs)["TORCHINDUCTOR_COMPILE_THREADS"] == expected


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path):
    folder = tmp_path / ".cache" / "fairbench" / "compiled"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert "TORCHINDUCTOR_CACHE_DIR" not in worker_variables(1)


def test_a_home_that_takes_no_folder_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert "TORCHINDUCTOR_CACHE_DIR" not in worker_variables(1)


@pytest.mark.slow
def test_a_second_process_reads_what_the_first_compiled(tmp_path):
    seen = []
    for number in range(2):
        variables = worker_variables(1, jobs=2) | {"TMPDIR": str(tmp_path / f"emptied{number}")}
        Path(variables["TMPDIR"]).mkdir()
        words = [sys.executable, "-P", "-c", COMPILATION]
        done = subprocess.run(words, env=variables, capture_output=True, text=True, check=True)
        seen.append(json.loads(done.stdout))
    assert seen == [
        {"fxgraph_cache_hit": 0, "fxgraph_cache_miss": 1},
        {"fxgraph_cache_hit": 1, "fxgraph_cache_miss": 0},
    ]
