"""Walk through the four jobs in an empty folder and write the transcript: `python docs/tutorial.py [PAGE]`.

The commands are those of the installed package beside this Python. A command that ends with another exit code than the
walk expects ends the walk.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent / "tutorial.md"
INTRODUCTION = """# The four jobs, command by command

This page was written by `python docs/tutorial.py`: it runs the commands below in an empty folder and records what they
print (without the progress on stderr). The trainings are smoke tests of three epochs (`--quick`), which show how
the parts fit together and say nothing about which method is better.
"""


@dataclass(frozen=True)
class Step:
    """A command of the walk, the sentence that introduces it, and the exit codes that are right."""

    text: str
    command: str
    codes: tuple[int, ...] = (0,)


RUNS = "fairbench-out/results/digits-quick"
EVALUATION = "--dataset digits --eps 0.2 --attacks clean,fgsm,pgd-20"

JOBS: dict[str, tuple[Step, ...]] = {
    "1. Add a method": (
        Step("Write a method file, a working example to edit, and its test.", "fairbench new-method mine"),
        Step("Drive the method through every hook on generated data.", "fairbench methods check mine"),
        Step(
            "Choose its settings by trials on held-out images. Two trials here; without `--trials` it gets as many as "
            "every method of the suite.",
            "fairbench tune digits --methods mine --trials 2",
        ),
        Step(
            "Train it beside TRADES, select, evaluate, and show the leaderboard.",
            "fairbench run digits --quick --methods trades,mine",
        ),
    ),
    "2. Compare methods": (
        Step("Rank the methods of the committed board, which the package ships.", "fairbench leaderboard show digits/v3"),
        Step("Compare two of them class by class.", "fairbench leaderboard compare dafa trades digits/v3"),
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
    environment = os.environ | {"PATH": path, "COLUMNS": "100"}
    yield INTRODUCTION
    for job, steps in JOBS.items():
        yield f"\n## {job}\n"
        for step in steps:
            done = subprocess.run(
                step.command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode not in step.codes:
                raise SystemExit(f"{step.command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
            lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines()]
            code = f"\nExit code {done.returncode}.\n" if len(step.codes) > 1 else ""
            yield f"\n{step.text}\n\n```console\n" + "\n".join([f"$ {step.command}", *lines]) + f"\n```\n{code}"


def main(page: Path) -> None:
    """Walk in a temporary folder and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        page.write_text("".join(transcript(Path(folder))), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE)
