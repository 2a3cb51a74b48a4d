"""The command line of `board.sh`: a suite's board in limited time, and what can be published of it in archives."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fairbench.errors import FairbenchError, InvalidInput
from fairbench.suites.suite import Suite, is_built_in, load_suite, suite_paths
from gpu.making import Maker
from gpu.options import Parser, count, limits, positive
from gpu.packing import Parcel, pack
from gpu.process import Stop, run_command
from gpu.steps import ROOT
from gpu.time_limit import TimeLimit
from gpu.workspace import Workspace

__all__ = ["main"]

DESCRIPTION = (
    "Tune and run a suite's methods within some minutes, in order of priority, and pack what can be published."
)
RESERVED = 50.0  # seconds at the end: an interrupted command stores what it has; the board is built and packed
ON_DEVICE = 6  # runs side by side on one CUDA device


def main(words: Sequence[str]) -> int:
    """Return the exit code: 0, or 1 if a command failed; bad input exits with 2."""
    parser = _parser()
    given = parser.parse_args(words)
    try:
        suite = load_suite(given.suite)
        chosen = _methods(suite, given.methods)
        tune = _tunes(suite, given.tune)
    except FairbenchError as error:
        parser.error(str(error))
    space = Workspace(Path(given.state or Path("gpu-out", suite.name)).resolve(), suite, ROOT)
    folder = Path(given.out or os.environ.get("OUT") or space.folder / "packed").resolve()
    space.prepare(None if is_built_in(given.suite) else suite_file(given.suite))
    folder.mkdir(parents=True, exist_ok=True)
    stop = Stop()
    stop.listen()
    start = float(os.environ.get("FAIRBENCH_GPU_START", time.time()))
    time_limit = TimeLimit.of(given.minutes, start=start, reserved=RESERVED, stop=stop)
    keep = partial(_pack, space, chosen, folder, given.max_files, int(given.max_mb * 1e6))
    maker = Maker(space, time_limit, partial(run_command, stop=stop), given.jobs or _jobs(), keep)
    size = given.lot or len(chosen)
    maker.make([chosen[at : at + size] for at in range(0, len(chosen), size)], tune=tune)
    stop.asked = False  # what is complete is put on the board in any case
    maker.build()
    print(f"\n{maker.summary()}")
    missing = [method for method in chosen if method not in maker.finished]
    print(f"not complete: {', '.join(missing)}; call again" if missing else "every method is complete")
    for line in keep():
        print(line)
    return int(any(row.state == "failed" for row in maker.rows))


def _parser() -> Parser:
    parser = Parser(prog="tests/gpu/board.sh", description=DESCRIPTION)
    parser.add_argument("suite", metavar="SUITE", help="name of a suite, or a YAML file")
    parser.add_argument("--minutes", type=positive, required=True, metavar="M", help="time in all")
    parser.add_argument("--methods", metavar="A,B", help="methods in order of priority (default: the suite's)")
    parser.add_argument(
        "--lot", type=count, metavar="N", help="methods that are tuned, then run, before the next ones (default: all)"
    )
    parser.add_argument(
        "--jobs", type=count, metavar="J", help=f"runs side by side (default: {ON_DEVICE} on a GPU, else the cores)"
    )
    parser.add_argument(
        "--tune",
        action=argparse.BooleanOptionalAction,
        help="whether to tune first (default: if the suite has a section `tuning`)",
    )
    parser.add_argument("--out", metavar="DIR", help="where the archives go (default: $OUT, else STATE/packed)")
    parser.add_argument(
        "--state",
        metavar="STATE",
        help="trials, runs and logs, with which another call goes on (default: ./gpu-out/SUITE)",
    )
    limits(parser)
    return parser


def suite_file(name: str) -> Path:
    """The YAML file of a suite by name or path."""
    return Path(name) if name.endswith((".yaml", ".yml")) else suite_paths()[name]


def _methods(suite: Suite, given: str | None) -> list[str]:
    """The methods in order of priority; raises InvalidInput for a suite without methods, or a text without a name."""
    if suite.checkpoints:
        raise InvalidInput(f"suite {suite.name} trains nothing: fairbench run {suite.name}")
    names = list(suite.methods) if given is None else [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise InvalidInput(f"--methods: expected comma-separated names, got {given!r}")
    return list(dict.fromkeys(names))


def _tunes(suite: Suite, given: bool | None) -> bool:
    """Whether to tune; raises InvalidInput if asked for and the suite has no trials of its own."""
    own = suite.tuning is not None and suite.tuned_on is None
    if given and not own:
        raise InvalidInput(f"--tune: suite {suite.name} has no trials of its own")
    return own if given is None else given


def _jobs() -> int:
    import torch

    return ON_DEVICE if torch.cuda.device_count() else os.cpu_count() or 1


def _pack(space: Workspace, methods: Sequence[str], folder: Path, max_files: int, max_bytes: int) -> list[str]:
    """Pack what can be published, then logs, then weights; describe what was packed and what was left out."""
    logs = [Parcel(space.folder, [Path(path.name)]) for path in sorted(space.folder.glob("*.log"))]
    lines: list[str] = []
    left = max_files
    for stem, parcels in (("board", space.parcels(methods)), ("logs", logs), ("weights", space.weights(methods))):
        packed = pack(parcels, folder, f"{space.suite.name}-{stem}", max_files=left, max_bytes=max_bytes)
        left -= len(packed.archives)
        lines += packed.describe()
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
