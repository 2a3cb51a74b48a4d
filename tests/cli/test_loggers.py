from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

MINE = """
from pathlib import Path
from fairbench import Logger, register_logger

@register_logger("lines", summary="a line an epoch in TARGET")
class Lines(Logger):
    def __init__(self, target):
        self.path = Path(target)

    def epoch(self, epoch, figures):
        with self.path.open("a") as file:
            file.write(f"{epoch},{figures['loss']}\\n")
"""


def _run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fairbench", "run", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_plug_ins_logger_sees_the_trainings_of_worker_processes(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    words = [str(tiny), "--methods", "sat", "--seeds", "0", "--jobs", "1", "--plugin", "mine.py", "--out", "out"]
    done = _run(*words, "--log", f"lines:{tmp_path / 'lines.csv'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (history,) = (tmp_path / "out" / "results" / "tiny" / "sat").glob("*/history.csv")
    with history.open(newline="") as file:
        expected = [f"{row['epoch']},{row['loss']}" for row in csv.DictReader(file)]
    assert (tmp_path / "lines.csv").read_text().splitlines() == expected
    again = _run(*words, "--log", "lines:elsewhere", "--dry-run", cwd=tmp_path)
    assert "elsewhere" not in again.stdout
    assert again.returncode == 0, again.stderr


def test_a_logger_that_is_not_there_ends_the_command_before_anything_runs(tiny: Path, tmp_path: Path) -> None:
    done = _run(str(tiny), "--log", "tensorbord:x", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown logger 'tensorbord'; did you mean 'tensorboard'" in done.stderr
    assert not (tmp_path / "out").exists()
