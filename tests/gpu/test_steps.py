"""The steps of a measurement under a clock and a runner that are stand-ins, and commands that really run."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gpu.measure import measure
from gpu.process import Ended, Stop, run_command
from gpu.steps import ROOT, Step, figures, run_steps, steps
from gpu.time_limit import TimeLimit

LOG = """
cuda bf16 resnet18 absld: a step 27.7 ms, 4621 images/s, 18% of 768100 Gflop/s; elapsed 27.7 ms (elapsed, medians of 5)
  script with autograd.grad: 103.4 ms, elapsed 103.4 ms, ratio 3.73; target 5.0: NOT met
.
=============================== warnings summary ===============================
tests/benchmarks/test_training.py::test_step[absld-resnet18]
Name (time in ms)                    Min                Max
test_step[absld-resnet18]        22.6363 (1.12)     22.6363 (1.12)
FAILED tests/benchmarks/test_training.py::test_step[sat-resnet18] - assert 1 == 2
1 failed, 1 passed in 68.65s (0:01:08)
"""


class Device:
    """A clock, and a runner whose commands take a time and print a log without running."""

    def __init__(self, **seconds: float) -> None:
        self.now, self.seconds, self.ran = 0.0, seconds, list[tuple[str, float]]()
        self.codes: dict[str, int] = {}

    def run(
        self,
        words: Sequence[str],
        log: Path,
        limit: float,
        *,
        cwd: Path | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> Ended:
        name = words[0]
        taken = min(limit, self.seconds.get(name, 10.0))
        self.now += taken
        self.ran.append((name, taken))
        log.write_text(f"{name} took {taken:.0f} s\n")
        code = self.codes.get(name, 0)
        state = "unfinished" if taken == limit else "failed" if code else "done"
        return Ended(state, code, taken)

    def time_limit(self, seconds: float) -> TimeLimit:
        return TimeLimit(seconds, 5.0, lambda: self.now)


def step(name: str, seconds: float = 10.0, needs: str = "README.md") -> Step:
    return Step(name, needs, [name], seconds)


def states(found) -> dict[str, str]:
    return {row.step: row.state for row in found}


def quiet(_: str) -> None:
    pass


def test_a_step_starts_only_if_its_estimate_fits_the_time_left(tmp_path):
    device = Device(a=30.0)
    rows = run_steps(
        [step("a"), step("b", 21), step("c", 20)], tmp_path, device.time_limit(55.0), device.run, say=quiet
    )
    assert states(rows) == {"a": "unfinished", "b": "done", "c": "skipped"} | {"b": "skipped", "c": "done"}
    assert device.ran == [("a", 30.0), ("c", 10.0)]  # a was cut at three times its estimate


def test_a_finished_step_is_not_run_again_and_an_unfinished_one_is(tmp_path):
    device = Device(slow=100.0)
    todo = [step("slow", 40), step("quick", 10)]
    assert states(run_steps(todo, tmp_path, device.time_limit(65.0), device.run, say=quiet)) == {
        "slow": "unfinished",
        "quick": "skipped",
    }
    device.now = 0.0
    assert states(run_steps(todo[1:], tmp_path, device.time_limit(60.0), device.run, say=quiet)) == {"quick": "done"}
    later = Device()
    rows = list(run_steps(todo, tmp_path, later.time_limit(1000.0), later.run, say=quiet))
    assert states(rows) == {"slow": "done", "quick": "done"}
    assert [name for name, _ in later.ran] == ["slow"]
    assert rows[1].seconds == 10.0  # as it was measured


def test_missing_files_and_missing_tests_are_no_failures(tmp_path):
    device = Device()
    device.codes = {"empty": 5, "wrong": 1}
    todo = [step("gone", needs="tests/gpu/test_nothing.py"), step("empty"), step("wrong"), step("right")]
    rows = list(run_steps(todo, tmp_path, device.time_limit(1000.0), device.run, say=quiet))
    assert states(rows) == {"gone": "missing", "empty": "missing", "wrong": "failed", "right": "done"}
    assert rows[2].text == "exit code 1; wrong took 10 s"


def test_nothing_starts_after_a_signal(tmp_path):
    device, stop = Device(), Stop()
    time_limit = TimeLimit(1000.0, 5.0, lambda: device.now, stop)
    found = run_steps([step("a"), step("b")], tmp_path, time_limit, device.run, say=quiet)
    assert next(found).state == "done"
    stop.asked = True
    assert next(found).state == "skipped"


def test_results_are_kept_after_every_step_and_the_summary_holds_the_figures(tmp_path):
    device, kept = Device(), list[str]()
    todo = [step("a"), step("b")]

    def keep() -> None:
        kept.append((tmp_path / "summary.txt").read_text())

    rows = measure(todo, tmp_path, device.time_limit(100.0), device.run, "a card", keep)
    assert states(rows) == {"a": "done", "b": "done"}
    assert "a took 10 s" in kept[0]
    assert "b took" not in kept[0]
    assert kept[1].startswith("a card\n")
    assert "    b took 10 s" in kept[1]


def test_without_a_device_every_step_is_skipped(tmp_path, capsys):
    device = Device()
    rows = measure(steps(tmp_path), tmp_path, device.time_limit(1e6), device.run, "", lambda: None)
    assert {row.state for row in rows} == {"skipped"}
    assert device.ran == []
    assert "no CUDA device is here" in capsys.readouterr().out


def test_figures_are_the_measured_lines_and_the_failures():
    assert figures(LOG) == [
        *(line for line in LOG.splitlines() if "cuda bf16" in line or "script with" in line),
        "FAILED tests/benchmarks/test_training.py::test_step[sat-resnet18] - assert 1 == 2",
    ]


def test_every_step_runs_a_file_of_this_checkout_or_is_missing(tmp_path):
    todo = steps(tmp_path)
    assert len({each.name for each in todo}) == len(todo)
    for each in todo:
        assert each.needs in each.words
    assert (ROOT / todo[0].needs).exists()


def test_a_command_past_its_limit_is_interrupted_and_keeps_its_output(tmp_path):
    code = "import time\ntry:\n  print('begun', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n  print('kept')"
    ended = run_command([sys.executable, "-c", code], tmp_path / "log", 2.0)
    assert ended.state == "unfinished"
    assert ended.seconds < 20
    assert (tmp_path / "log").read_text().split() == ["begun", "kept"]


def test_a_command_that_ignores_the_interrupt_is_killed(tmp_path):
    code = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    ended = run_command([sys.executable, "-c", code], tmp_path / "log", 2.0, grace=0.5)
    assert (ended.state, ended.code) == ("unfinished", -9)


def test_a_command_ends_once_there_is_enough_and_reports_its_exit_code(tmp_path):
    wait = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert run_command(wait, tmp_path / "log", 50.0, enough=lambda: True).state == "unfinished"
    ended = run_command([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log", 50.0)
    assert (ended.state, ended.code) == ("failed", 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "argument --minutes: expected a number above 0, got '0'"),
        (["--max-files", "-1"], "argument --max-files: expected an integer from 1, got '-1'"),
        (["--hours"], "unrecognized arguments: --hours"),
    ],
)
def test_bad_arguments_are_one_line(words, message, capsys):
    from gpu.measure import main

    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"tests/gpu/run.sh: {message}\n"


def test_the_script_runs_to_its_end_without_a_device(tmp_path):
    if __import__("torch").cuda.is_available():
        pytest.skip("a CUDA device is here: the steps would run")
    environment = {"PYTHON": sys.executable, "OUT": str(tmp_path / "out"), "CUDA_VISIBLE_DEVICES": ""}
    words = ["bash", str(ROOT / "tests/gpu/run.sh"), "--minutes", "1", "--state", str(tmp_path / "state")]
    ended = run_command(words, tmp_path / "log", 100.0, environment=environment)
    assert ended.state == "done", (tmp_path / "log").read_text()
    assert "no CUDA device" in (tmp_path / "log").read_text()
    with tarfile.open(tmp_path / "out/measurements-1.tar.gz") as archive:
        assert archive.getnames() == ["summary.txt"]
