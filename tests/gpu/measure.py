"""Measure everything that needs a CUDA device, most valuable first, within some minutes: see `run.sh --help`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gpu.options import Parser, limits, positive
from gpu.packing import Parcel, pack
from gpu.process import Run, Stop, run_command
from gpu.steps import ROOT, Row, Step, run_steps, steps, table
from gpu.time_limit import TimeLimit

__all__ = ["main", "measure"]

DESCRIPTION = "Tests and benchmarks that need a CUDA device, most valuable first, within some minutes."
SUMMARY = "summary.txt"
RESERVED = 25.0  # seconds at the end: an interrupted step stores what it has, and the results are packed
MB = 1_000_000


def main(words: Sequence[str]) -> int:
    """Return the exit code: 0 unless a step failed, which gives 1."""
    given = _parser().parse_args(words)
    state = given.state.resolve()
    folder = Path(given.folder or os.environ.get("OUT") or state).resolve()
    for path in (state, folder):
        path.mkdir(parents=True, exist_ok=True)
    for mark in state.glob("*.done") if given.again else ():
        mark.unlink()
    stop = Stop()
    stop.listen()
    start = float(os.environ.get("FAIRBENCH_GPU_START", time.time()))
    time_limit = TimeLimit.of(given.minutes, start=start, reserved=RESERVED, stop=stop)
    device = _device()
    keep = partial(_pack, state, folder, given.max_files, int(given.max_mb * MB))
    rows = measure(steps(state), state, time_limit, partial(run_command, stop=stop), device, keep)
    print(f"\n{(state / SUMMARY).read_text(encoding='utf-8')}")
    for line in keep():
        print(line)
    return int(any(row.state == "failed" for row in rows))


def measure(
    todo: Sequence[Step], state: Path, time_limit: TimeLimit, run: Run, device: str, keep: Callable[[], object]
) -> list[Row]:
    """Run the steps if there is a device; after each, write the summary and `keep` the results.

    Results are packed after every step, so that the last archives remain if this process is killed.
    """
    say = partial(print, flush=True)
    say(device or "no CUDA device is here: every step is skipped")
    rows: list[Row] = []
    skipped = (Row(step.name, "skipped", 0.0, "no CUDA device") for step in todo)
    for row in run_steps(todo, state, time_limit, run, say=say) if device else skipped:
        rows.append(row)
        text = f"{device or 'no CUDA device'}\n{table(rows, state)}\n"
        (state / SUMMARY).write_text(text, encoding="utf-8")
        keep()
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="tests/gpu/run.sh", description=DESCRIPTION)
    parser.add_argument(
        "folder", nargs="?", metavar="FOLDER", help="where the archives go (default: $OUT, else the state)"
    )
    parser.add_argument("--minutes", type=positive, default=9.0, metavar="M", help="time in all (default: 9)")
    parser.add_argument(
        "--state",
        type=Path,
        default=Path("gpu-out"),
        metavar="DIR",
        help="logs and marks of finished steps, which another call does not run again (default: ./gpu-out)",
    )
    parser.add_argument("--again", action="store_true", help="run finished steps again")
    limits(parser)
    return parser


def _device() -> str:
    """Name and versions of the CUDA device, empty without one; asked in a process of its own, whose memory is freed."""
    code = (
        "import torch, triton; "
        "print(torch.cuda.get_device_name(), 'torch', torch.__version__, 'triton', triton.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else ""


def _pack(state: Path, folder: Path, max_files: int, max_bytes: int) -> list[str]:
    """Pack the summary, the logs, then the JSON files; describe what was packed and what was left out."""
    names = [Path(SUMMARY), *(Path(path.name) for end in ("log", "json") for path in sorted(state.glob(f"*.{end}")))]
    packed = pack(
        [Parcel(state, [name]) for name in names], folder, "measurements", max_files=max_files, max_bytes=max_bytes
    )
    return packed.describe()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
