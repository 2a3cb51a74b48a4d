from __future__ import annotations

import signal
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from stored import run_spec

from fairbench.authoring.scaffold import new_method
from fairbench.errors import FairbenchError, Interrupted
from fairbench.run.launch import LogLines, launch_local, local
from fairbench.suites.sections import Environment, MethodSpec
from fairbench.suites.spec import RunSpec


def _spec(method: str = "sat", **changes: Any) -> RunSpec:
    environment = Environment(torch="2.15.0", threads=3)
    return run_spec(MethodSpec(name=method, base=method), **{"environment": environment, **changes})


class _Record:
    """Stands in for `_work`: records when runs start and end, and fails the runs that it is told to fail."""

    def __init__(self, failing: tuple[str, ...] = (), seconds: float = 0.02) -> None:
        self.events: list[str] = []
        self.most = 0
        self._failing, self._seconds, self._lock = failing, seconds, threading.Lock()

    def __call__(self, spec: RunSpec, *_: Any) -> None:
        name = f"{spec.label} {spec.seed}"
        with self._lock:
            self.events.append(f"start {name}")
            self.most = max(self.most, len(self.events) - 2 * len(self.ended))
        time.sleep(self._seconds)
        with self._lock:
            self.events.append(f"end {name}")
        if name in self._failing:
            raise FairbenchError(f"{name}: failed")

    @property
    def ended(self) -> list[str]:
        return sorted(event.removeprefix("end ") for event in self.events if event.startswith("end "))


def _launch(monkeypatch, specs: list[RunSpec], record: _Record, jobs: int = 2) -> None:
    monkeypatch.setattr(local, "_work", record)
    launch_local(specs, Path("nowhere"), jobs=jobs, view=LogLines())


def test_every_run_is_done_and_a_teacher_before_its_students(monkeypatch):
    teacher = _spec("trades", role="teacher")
    students = [_spec("rslad", seed=seed, teacher=teacher) for seed in range(3)]
    record = _Record()
    _launch(monkeypatch, [*students, teacher, _spec("sat")], record)
    assert record.ended == ["rslad 0", "rslad 1", "rslad 2", "sat 0", "teacher 0"]
    trained = record.events.index("end teacher 0")
    assert all(record.events.index(f"start rslad {seed}") > trained for seed in range(3))


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_more_than_so_many_jobs_run_at_once(monkeypatch, jobs):
    record = _Record(seconds=0.1)
    _launch(monkeypatch, [_spec(seed=seed) for seed in range(5)], record, jobs)
    assert record.most == jobs
    assert len(record.ended) == 5


def test_prerequisites_that_are_not_planned_are_taken_as_done(monkeypatch):
    record = _Record()
    _launch(monkeypatch, [_spec("rslad", teacher=_spec("trades", role="teacher"))], record)
    assert record.ended == ["rslad 0"]
    _launch(monkeypatch, [], record)


def test_a_student_that_is_configured_as_the_teacher_is_runs_as_well(monkeypatch):
    teacher, student = _spec("trades", role="teacher"), _spec("trades")
    assert teacher.run_id == student.run_id
    record = _Record()
    _launch(monkeypatch, [teacher, student, _spec("rslad", teacher=teacher)], record)
    assert record.ended == ["rslad 0", "teacher 0", "trades 0"]


def test_a_failed_run_stops_those_that_need_it_and_no_others(monkeypatch):
    teacher = _spec("trades", role="teacher")
    specs = [teacher, _spec("rslad", teacher=teacher), _spec("sat"), _spec("sat", seed=1), _spec("sat", seed=2)]
    record = _Record(failing=("teacher 0",))
    with pytest.raises(FairbenchError, match=r"^teacher 0: failed \(2 of 5 runs failed\)$") as caught:
        _launch(monkeypatch, specs, record)
    assert caught.value.exit_code == 2
    assert record.ended == ["sat 0", "sat 1", "sat 2", "teacher 0"]


def test_what_is_no_error_of_ours_is_raised_as_it_is(monkeypatch):
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(local, "_work", broken)
    with pytest.raises(ZeroDivisionError):
        launch_local([_spec()], Path("nowhere"), jobs=1, view=LogLines())


@pytest.fixture
def worker(monkeypatch, tmp_path):
    """Return `worker(code)`: a Python program that runs in place of the worker, its task in `task`."""

    def install(code: str) -> None:
        program = tmp_path / "worker"
        start = f"#!{sys.executable}\nimport json, os, signal, sys, time\ntask = json.loads(sys.stdin.read())\n"
        program.write_text(start + code)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(program))

    return install


def _run(results: Path = Path("results")) -> None:
    launch_local([_spec()], results, jobs=1, view=LogLines())


def test_a_worker_gets_its_task_and_threads_and_its_events_are_shown(worker, capfd, tmp_path):
    worker(
        """
assert task["results"] == "results" and task["spec"]["method"]["name"] == "sat"
threads = os.environ["OMP_NUM_THREADS"] + os.environ["MKL_NUM_THREADS"]
print(json.dumps({"event": "progress", "stage": "train", "done": 3, "total": 4, "note": threads}))
"""
    )
    _run()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert [line.rpartition(" (")[0] for line in captured.err.splitlines()] == [
        "sat seed 0: train 3/4 33",
        "sat seed 0: done",
    ]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ('print(json.dumps({"event": "error", "message": "no such file"})); sys.exit(2)', "no such file"),
        ("1 / 0", "the process ended with exit code 1: ZeroDivisionError: division by zero"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the process was killed by signal 9"),
        ("sys.stderr.buffer.write(b'\\xff\\xfe'); sys.exit(3)", "the process ended with exit code 3: ��"),
        ("sys.exit(1)", "the process ended with exit code 1"),
    ],
)
def test_a_worker_that_fails_is_one_line(worker, capfd, code, message):
    worker(code)
    with pytest.raises(FairbenchError) as caught:
        _run()
    assert str(caught.value) == f"sat seed 0: {message} (1 of 1 runs failed)"
    assert capfd.readouterr().err.startswith("sat seed 0: failed")


def test_a_worker_that_was_told_to_stop_interrupts_the_plan(worker, capfd):
    worker("sys.exit(130)")
    with pytest.raises(Interrupted) as caught:
        _run()
    assert caught.value.exit_code == 130
    assert capfd.readouterr().err.startswith("sat seed 0: stopped")


class _Interrupting(LogLines):
    """A view whose rows interrupt the main thread as Ctrl-C does, at the worker's first event."""

    def start(self, _name: str) -> _Interrupting:
        return self

    def update(self, *_: Any) -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def finish(self, _outcome: str) -> None:
        pass


SAY = 'print(json.dumps({"event": "progress", "stage": "s", "done": 0, "total": 1, "note": ""}), flush=True)\n'


@pytest.mark.parametrize("before", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"], ids=["listens", "deaf"])
def test_an_interrupt_ends_workers_even_those_that_do_not_listen(worker, before):
    worker(before + SAY + "time.sleep(60)")
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch_local([_spec(), _spec(seed=1)], Path("results"), jobs=1, view=_Interrupting())
    assert time.monotonic() - begin < 30  # of the minute that the worker would sleep


def test_a_real_worker_reports_what_stops_it(tmp_path, make_suite, capfd):
    from fairbench.run.plan import plan
    from fairbench.suites.suite import load_suite

    student = plan(load_suite(str(make_suite(tmp_path / "suite"))), methods=["absld"])[-1]
    with pytest.raises(FairbenchError, match=r"absld seed 0: .*the teacher has not been trained yet \(1 of 1"):
        launch_local([student], tmp_path / "results", jobs=1, view=LogLines())
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_imports_nothing_from_the_working_directory(tmp_path, monkeypatch, make_suite, capfd):
    from fairbench.run.plan import plan
    from fairbench.suites.suite import load_suite

    student = plan(load_suite(str(make_suite(tmp_path / "suite"))), methods=["absld"])[-1]
    monkeypatch.chdir(tmp_path)
    for name in ("safetensors", "fairbench", "json", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    with pytest.raises(FairbenchError, match="the teacher has not been trained yet"):
        launch_local([student], tmp_path / "results", jobs=1, view=LogLines())
    assert not (tmp_path / "ran").exists()
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_finds_the_methods_of_the_working_directory(tmp_path, monkeypatch, make_suite, capfd):
    from fairbench.run.plan import plan
    from fairbench.suites.suite import load_suite

    monkeypatch.chdir(tmp_path)
    new_method("of_my_own", tmp_path)
    (student,) = plan(load_suite(str(make_suite(tmp_path / "suite", recipe={"epochs": 1}))), methods=["of_my_own"])
    launch_local([student], tmp_path / "results", jobs=1, view=LogLines())
    assert (tmp_path / "results" / student.folder / "run.json").is_file()
