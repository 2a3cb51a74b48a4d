"""`.ci/results` on pull requests that add a run folder: one that is right, and ones that were tampered with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from committed import committed_run

from fairbench.files import checksum
from fairbench.results.record import SEAL, seal

ROOT = Path(__file__).parents[1]
RUN = committed_run("sat", 0, 4).path.relative_to(ROOT)
BOARD = Path("leaderboards/digits/v4.csv")

pytestmark = pytest.mark.slow


def _git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "core.hooksPath=")
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clone of this repository in which the commit `base` lacks one run folder, and `added` adds it."""
    folder = tmp_path_factory.mktemp("clone")
    _git(folder, "clone", "-q", "--shared", str(ROOT), ".")
    shutil.copy(ROOT / ".ci" / "results", folder / ".ci" / "results")
    for name in ("results", "leaderboards"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.lock"))
    _git(folder, "add", "-A")
    _git(folder, "rm", "-q", "-r", "--cached", str(RUN))
    _git(folder, "commit", "-q", "--allow-empty", "-m", "without one run")
    _git(folder, "tag", "base")
    _git(folder, "add", str(RUN))
    _git(folder, "commit", "-q", "-m", "with it")
    _git(folder, "tag", "added")
    return folder


@pytest.fixture
def submit(clone) -> Callable[..., tuple[int, list[str]]]:
    """Change the clone, commit, and check it: the exit code, and the lines that were printed."""

    def call(change: Callable[[Path], None], start: str = "added") -> tuple[int, list[str]]:
        _git(clone, "checkout", "-q", "-f", start)
        _git(clone, "clean", "-fdq")
        change(clone)
        _git(clone, "add", "-A")
        _git(clone, "commit", "-q", "--allow-empty", "-m", "change")
        base = "base" if start == "added" else start
        environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        done = subprocess.run(
            ["bash", ".ci/results", base], cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, [*done.stdout.splitlines(), *done.stderr.splitlines()]

    return call


def _reseal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """Give the files of the run folder their checksums, and its record one of its own, as one who cheats would."""
    path = folder / RUN / "run.json"
    record = {key: value for key, value in json.loads(path.read_text(encoding="utf-8")).items() if key != SEAL}
    record["files"] = {name: checksum(folder / RUN / name) for name in record["files"]}
    change(record)
    path.write_text(json.dumps(seal(record), indent=1), encoding="utf-8")


def _better(folder: Path) -> None:
    """Write the right answer in the place of the verdicts of PGD on a hundred images."""
    path = folder / RUN / "verdicts.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["best/pgd-20"] = np.where(np.arange(500) < 100, arrays["labels"], arrays["best/pgd-20"])
    np.savez_compressed(path, **arrays)


def _better_and_sealed(folder: Path) -> None:
    _better(folder)
    _reseal(folder)


def _of_another_person(folder: Path) -> None:
    command = "fairbench run digits --plugin /home/ada/mine.py"
    _reseal(folder, lambda record: record["spec"].update(command=command))


def _with_a_password(folder: Path) -> None:
    command = "fairbench run digits --log mlflow:https://ada:hunter2@example.org"
    _reseal(folder, lambda record: record["spec"].update(command=command))


def _with_notes(folder: Path) -> None:
    (folder / RUN / "notes.txt").write_text("x", encoding="utf-8")


def _without_verdicts(folder: Path) -> None:
    (folder / RUN / "verdicts.npz").unlink()


def _cut(folder: Path) -> None:
    (folder / RUN / "run.json").write_bytes((folder / RUN / "run.json").read_bytes()[:500])


def _without_weights(folder: Path) -> None:
    (folder / RUN / "best.safetensors").unlink()


def _another_board(folder: Path) -> None:
    lines = (folder / BOARD).read_text(encoding="utf-8").splitlines()
    (folder / BOARD).write_text("\n".join([*lines[:-1], lines[-1].replace("0.", "0.9", 1)]) + "\n", encoding="utf-8")


def test_a_run_folder_whose_verdicts_the_weights_give_is_accepted(submit):
    code, lines = submit(lambda _: None)
    made = "10 of 11 attacks run again, with the same verdicts (best/autoattack-fast: only with --full)"
    assert (code, lines) == (0, [f"{RUN}: ok, {made}", "the boards are what the run folders give"])


def test_without_a_file_of_weights_it_says_which_verdicts_nobody_made_again(submit):
    code, lines = submit(_without_weights)
    assert (code, lines[0]) == (
        0,
        f"{RUN}: ok, 5 of 11 attacks run again, with the same verdicts (no best.safetensors)",
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_better, "verdicts.npz: content does not match the checksum in run.json"),
        (_better_and_sealed, "best/pgd-20: the weights give other verdicts on 22 of 500 images"),
        (_of_another_person, "run.json: spec.command holds a local path, /home/ada/mine.py"),
        (_with_a_password, "run.json: spec.command holds what looks like a secret"),
        (_with_notes, "notes.txt is no file of a run"),
        (_without_verdicts, "verdicts.npz is missing"),
        (_cut, "run.json: not valid JSON"),
    ],
)
def test_what_was_tampered_with_is_refused_in_one_line_that_says_why(submit, change, reason):
    code, lines = submit(change)
    assert code == 2
    assert lines[0].startswith(f"{RUN}: {reason}")
    assert lines[1:] == ["fairbench: 1 of 1 run folders cannot be added to the results"]
    assert "hunter2" not in lines[0]


@pytest.mark.parametrize("start", ["added", "base"])
def test_a_board_that_the_run_folders_do_not_give_is_refused_with_and_without_a_run_folder(submit, start, clone):
    code, lines = submit(_another_board, start)
    told = f"{BOARD}: not what the run folders give: commit what `fairbench leaderboard build digits --publish` writes"
    assert (code, lines[-1]) == (2, told)


def test_a_change_of_something_else_is_left_alone(submit):
    code, lines = submit(lambda folder: (folder / "README.md").write_text("x", encoding="utf-8"), "base")
    assert (code, lines) == (0, ["no run folder and no board has changed"])
