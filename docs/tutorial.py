"""Walk through the four jobs in an empty folder and write the transcript: `python docs/tutorial.py [PAGE]`.

The commands are those of the installed package beside this Python. A command that ends with another exit code than the
walk expects ends the walk.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent / "tutorial.md"
INTRODUCTION = """# The four jobs, command by command

This page was written by `python docs/tutorial.py`: it runs the commands below in an empty folder and records what they
print (without the progress on stderr). Two trials and one seed show how the parts fit together; they are too few to say
which method is better.
"""


@dataclass(frozen=True)
class Step:
    """A command of the walk, the sentence that introduces it, and the exit codes that are right."""

    text: str
    command: str
    codes: tuple[int, ...] = (0,)


RUNS = "fairbench-out/results/digits"
EVALUATION = "--dataset digits --eps 0.2 --attacks clean,fgsm,pgd-20"

JOBS: dict[str, tuple[Step, ...]] = {
    "1. Add a method": (
        Step("Write a method file, a working example to edit, and its test.", "fairbench new-method mine"),
        Step("Drive the method through every hook on generated data.", "fairbench methods check mine"),
        Step(
            "Choose its settings by trials on held-out images. Two trials here; without `--trials` the method gets as "
            "many as every other method of the suite, and is ranked beside them.",
            "fairbench tune digits --methods mine --trials 2",
        ),
        Step(
            "Train it beside TRADES, select, evaluate, and show the leaderboard.",
            "fairbench run digits --methods trades,mine",
        ),
    ),
    "2. Compare methods": (
        Step("Rank the methods of the committed board, which the package ships.", "fairbench leaderboard show digits"),
        Step("Compare two of them class by class.", "fairbench leaderboard compare dafa trades digits"),
        Step("Look up what a column or a heading means.", "fairbench explain nsd"),
    ),
    "3. Gate a change": (
        Step(
            "Evaluate the checkpoint that you have, the baseline.",
            f"fairbench evaluate {RUNS}/trades/*/best.safetensors {EVALUATION} --out baseline",
        ),
        Step(
            "Evaluate the checkpoint that is to replace it.",
            f"fairbench evaluate {RUNS}/mine/*/best.safetensors {EVALUATION} --out candidate",
        ),
        Step(
            "Compare them. The exit code is 0 if nothing regressed and 1 if something did.",
            "fairbench check --baseline baseline --candidate candidate --max-drop 5",
            (0, 1),
        ),
    ),
    "4. Audit a checkpoint": (
        Step(
            "Find the worst class, the signs of gradient masking, and write a page.",
            f"fairbench evaluate {RUNS}/mine/*/best.safetensors {EVALUATION},cw-30 --report audit.html",
        ),
    ),
}


def transcript(folder: Path) -> Iterator[str]:
    """Run every command in a folder, and yield the page part by part; raises SystemExit on a wrong exit code."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path, "COLUMNS": "100", "TERM": "xterm", "NO_COLOR": "1"}
    yield INTRODUCTION
    for job, steps in JOBS.items():
        yield f"\n## {job}\n"
        for step in steps:
            code, printed = run(step.command, folder, environment)
            if code not in step.codes:
                raise SystemExit(f"{step.command}: exit code {code}\n{printed}")
            printed = printed.replace(sysconfig.get_path("purelib"), "SITE-PACKAGES").replace(f"{folder}/", "")
            lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
            ending = f"\nExit code {code}.\n" if len(step.codes) > 1 else ""
            yield f"\n{step.text}\n\n```console\n" + "\n".join([f"$ {step.command}", *lines]) + f"\n```\n{ending}"


def run(command: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command whose stdout is a terminal, so that tables fit it; return its exit code and what it printed."""
    ours, its = os.openpty()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, shell=True, cwd=folder, env=environment, stdout=its, stderr=errors)
        os.close(its)
        printed = b"".join(iter(lambda: read(ours), b""))
        os.close(ours)
        code = process.wait()
        errors.seek(0)
        said = errors.read() if code else b""
    return code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", (printed + said).decode())


def read(terminal: int) -> bytes:
    """Read what a terminal holds; nothing once the last process that writes to it has ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def main(page: Path) -> None:
    """Walk in a temporary folder and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        page.write_text("".join(transcript(Path(folder))), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE)
