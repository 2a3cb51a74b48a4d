"""Two identical commands started at once: one works, the other waits, says so, and finds the work done."""

from __future__ import annotations

import os
import subprocess
import sys

COMMAND = [sys.executable, "-m", "fairbench.cli"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_two_identical_commands_do_the_work_once(whole, tmp_path, bits):
    command = [*COMMAND, "run", str(whole.suite), "--out", "out"]
    processes = [
        subprocess.Popen(
            command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert ended[0][0] == ended[1][0]
    logs = [log for _, log in ended]
    assert sum("train 2/2" in log for log in logs) == 1
    (idle,) = [log for log in logs if "train 2/2" not in log]
    assert idle == "" or "waiting 0/1 another process works on this run" in idle
    assert bits(tmp_path / "out") == bits(whole.root)
