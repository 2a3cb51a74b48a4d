"""The steps of a measurement: what each runs, how long it takes, and how each ended."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from gpu.process import Run
from gpu.time_limit import TimeLimit

__all__ = ["ROOT", "Row", "Step", "figures", "run_steps", "steps", "table"]

ROOT = Path(__file__).resolve().parents[2]
FAST = "tests/gpu/train_fast.py"
NO_TESTS = 5  # pytest's exit code


@dataclass(frozen=True)
class Step:
    """One command and about how many seconds it takes; `needs` is the file that it runs, relative to the checkout.

    It is taken to hang, and interrupted, after `over` times these seconds.
    """

    name: str
    needs: str
    words: Sequence[str]
    seconds: float
    over: float = 3.0


@dataclass(frozen=True)
class Row:
    """How a step ended: done, failed, unfinished, missing or skipped; `text` is its last line or the reason."""

    step: str
    state: str
    seconds: float = 0.0
    text: str = ""


def steps(folder: Path) -> list[Step]:
    """The steps in order of their value; result files go to `folder`."""
    return [
        _tests("kernels", "tests/kernels", 60),
        _tests("training", "tests/gpu/test_training.py", 120),
        _tests("attacks", "tests/gpu/test_attacks.py", 90),
        _benchmark(folder, "step", "test_training.py", 90, "test_step and resnet18 and (absld or fair_ard)"),
        _benchmark(folder, "attack", "test_training.py", 30, "test_attack and resnet18"),
        _benchmark(folder, "modes", "test_training.py", 120, "(test_modes or test_floor) and resnet18"),
        _benchmark(folder, "sharing", "test_sharing.py", 90),
        _benchmark(folder, "autoattack", "test_graphs.py", 90),
        _tests("memory", "tests/gpu/test_memory.py", 40),
        _tests("ranks", "tests/gpu/test_ranks.py", 40),
        _benchmark(folder, "kernel-times", "test_kernels.py", 20),
        Step("fast", FAST, [sys.executable, FAST, str(folder)], 120, over=math.inf),  # goes on in the next call
    ]


def _tests(name: str, path: str, seconds: float) -> Step:
    words = [*_pytest(), "-rf", "--tb=short", path, "-m", "gpu"]
    return Step(f"tests-{name}", path, words, seconds)


def _benchmark(folder: Path, name: str, file: str, seconds: float, chosen: str = "") -> Step:
    path = f"tests/benchmarks/{file}"
    words = [*_pytest(), "-s", "-rf", "--tb=short", path, "-m", "slow or gpu"]
    words += ["-k", chosen] if chosen else []
    words += [f"--benchmark-json={folder / name}.json"] if find_spec("pytest_benchmark") else []
    return Step(f"benchmark-{name}", path, words, seconds)


def _pytest() -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


def run_steps(
    todo: Sequence[Step],
    folder: Path,
    time_limit: TimeLimit,
    run: Run,
    *,
    say: Callable[[str], None],
    root: Path = ROOT,
) -> Iterator[Row]:
    """Run each step whose estimate fits into the time left, in `root`, and yield how each ended.

    A finished step leaves `<step>.done` in `folder` and is not run again.
    """
    for step in todo:
        row = _finished(folder, step)
        if row is None:
            say(f"{step.name}: starts, about {step.seconds:.0f} s; {max(0.0, time_limit.left()):.0f} s are left")
            row = _row(step, folder, time_limit, run, root)
            say(f"{row.step}: {row.state}: {row.text}")
        if row.state == "done":
            (folder / f"{step.name}.done").write_text(json.dumps(asdict(row)), encoding="utf-8")
        yield row


def _finished(folder: Path, step: Step) -> Row | None:
    mark = folder / f"{step.name}.done"
    return Row(**json.loads(mark.read_text(encoding="utf-8"))) if mark.exists() else None


def _row(step: Step, folder: Path, time_limit: TimeLimit, run: Run, root: Path) -> Row:
    if not (root / step.needs).exists():
        return Row(step.name, "missing", 0.0, f"the checkout has no {step.needs}")
    left = time_limit.left()
    if left < step.seconds:
        return Row(step.name, "skipped", 0.0, f"takes about {step.seconds:.0f} s; call again")
    log = folder / f"{step.name}.log"
    log.unlink(missing_ok=True)
    ended = run(step.words, log, min(left, step.over * step.seconds), cwd=root)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    last = next((line.strip(" =") for line in reversed(lines) if line.strip(" =")), "no output")
    if ended.state == "failed" and ended.code == NO_TESTS:
        return Row(step.name, "missing", ended.seconds, f"no such test in {step.needs}")
    reason = {"failed": f"exit code {ended.code}; ", "unfinished": "out of time; "}.get(ended.state, "")
    return Row(step.name, ended.state, ended.seconds, reason + last)


def table(rows: Sequence[Row], folder: Path) -> str:
    """A line for each step, and below it the figures that it printed."""
    width = max((len(row.step) for row in rows), default=0)
    lines = []
    for row in rows:
        lines.append(f"{row.step:<{width}}  {row.state:<10}  {row.seconds:6.1f} s  {row.text[:120]}")
        log = folder / f"{row.step}.log"
        if row.state in {"done", "failed", "unfinished"} and log.exists():
            found = figures(log.read_text(encoding="utf-8", errors="replace"))
            lines += [f"    {line[:160]}" for line in found]
    return "\n".join(lines)


_MEASURED = re.compile(r"\d.*\b(ms|s|images/s|MiB|GiB|%|ratio)\b|\d ?%|\bratio \d")
_PYTEST = re.compile(r"^\.|^=|^-|^test_|passed|failed in|^Name |warnings|^\s*Outliers|^\s*OPS|\.py:\d|^E |^>")


def figures(log: str, most: int = 12) -> list[str]:
    """The lines of a log with measured figures, the last `most`; then the reasons of failed tests."""
    lines = list(_text_lines(log))
    measured = [line for line in lines if _MEASURED.search(line) and not _PYTEST.search(line)]
    return measured[-most:] + [line for line in lines if line.startswith("FAILED ")][:most]


def _text_lines(log: str) -> Iterator[str]:
    for line in log.splitlines():
        text = line.rpartition("\r")[2].rstrip()
        if text:
            yield text
