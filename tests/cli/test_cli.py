from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer

from fairbench import cli
from fairbench.leaderboard.builder import load_leaderboard
from fairbench.models import open_model
from fairbench.results.folder import RunFolder
from fairbench.run.pipeline import execute_run
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite

COMMAND = [sys.executable, "-m", "fairbench.cli"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def fairbench(monkeypatch, capsys, tmp_path):
    """Return `fairbench(*arguments) -> (code, stdout, lines of stderr)`: the command line in this process."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["fairbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err.splitlines()

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def finished(make_suite, tmp_path_factory) -> SimpleNamespace:
    """`fairbench run` as a user starts it, of one method; its output, and where the checkpoint is."""
    folder = tmp_path_factory.mktemp("cli")
    suite = make_suite(folder / "suite", methods=["sat"])
    command = [*COMMAND, "run", str(suite), "--out", "out"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (best,) = folder.glob("out/results/tiny/sat/*/best.safetensors")
    board = folder / "out" / "leaderboards" / "tiny" / "v1.csv"
    data = f"npz:{folder}/suite/test.npz"
    return SimpleNamespace(folder=folder, suite=suite, out=folder / "out", done=done, best=best, board=board, data=data)


def test_a_run_shows_progress_on_stderr_and_its_board_alone_on_stdout(finished):
    plan, estimate, *err = finished.done.stderr.splitlines()
    assert plan.startswith("tiny v1: 1 run of sat; seed 0; 0 done, ")
    assert estimate == "no estimate for 1 of the runs: no committed run has this network, dataset and attacks"
    assert all(line.startswith("sat seed 0: ") for line in err)
    stages = [line.removeprefix("sat seed 0: ").split()[0] for line in err]
    assert stages[0] == "start"
    assert stages[-1] == "done"
    assert {"train", "evaluate"} <= set(stages)
    assert any("train 2/2 loss" in line for line in err)
    out = finished.done.stdout.splitlines()
    assert out[0].startswith("tiny v1: npz:train.npz,test.npz, protocol ")
    assert any(line.startswith("sat: worst class ") for line in out)
    assert any(line.startswith("Next: fairbench leaderboard show tiny --attack all --out out ") for line in out)
    assert out[-1] == "out/leaderboards/tiny/v1.csv"
    assert "sat seed 0" not in finished.done.stdout
    assert "\x1b" not in finished.done.stdout + finished.done.stderr


def test_the_command_is_in_every_row_and_reproduces_the_run(finished):
    commands = set(load_leaderboard(finished.board)["command"])
    assert commands == {f"fairbench run {finished.suite} --out out"}


def test_the_same_command_again_runs_nothing(finished, fairbench):
    before = {path: path.stat().st_mtime_ns for path in finished.out.rglob("*") if "results" in path.parts}
    board = finished.board.read_bytes()
    begin = time.monotonic()
    code, out, err = fairbench("run", finished.suite, "--out", finished.out)
    assert (code, err) == (0, [])
    assert out.splitlines()[:3] == finished.done.stdout.splitlines()[:3]
    assert time.monotonic() - begin < 10
    assert {path: path.stat().st_mtime_ns for path in finished.out.rglob("*") if "results" in path.parts} == before
    assert finished.board.read_bytes() == board


def test_a_board_is_shown_by_suite_or_by_file_and_as_json(finished, fairbench):
    by_suite = fairbench("leaderboard", "show", "tiny", "--out", finished.out)
    by_file = fairbench("leaderboard", "show", finished.board)
    assert by_suite == by_file
    code, out, err = by_file
    assert (code, err) == (0, [])
    assert "sat" in out
    assert out.splitlines()[-1] == str(finished.board)
    code, out, err = fairbench("leaderboard", "show", finished.board, "--json")
    rows = json.loads(out)
    assert (code, err) == (0, [])
    assert len(rows) == len(load_leaderboard(finished.board))
    assert rows[0].keys() == set(load_leaderboard(finished.board).columns)
    assert (rows[0]["method"], rows[0]["seed"], rows[0]["quick"]) == ("sat", "0", False)


def test_a_board_is_built_again_without_a_changed_byte(finished, fairbench):
    before = finished.board.read_bytes()
    assert fairbench("leaderboard", "build", "tiny", "--out", finished.out) == (0, f"{finished.board}\n", [])
    assert finished.board.read_bytes() == before


def test_a_checkpoint_of_the_run_is_evaluated_as_json(finished, fairbench, tmp_path):
    code, out, err = fairbench(
        "evaluate", finished.best, "--dataset", finished.data, "--eps", "0.1",
        "--attacks", "clean,pgd-10:rel_step=0.25,iterate=last,cw-10:rel_step=0.25", "--json", "--out", "report",
    )  # fmt: skip
    assert code == 0
    assert [line.rpartition(" (")[0] for line in err][-1] == "best.safetensors: done"
    found = json.loads(out)
    described = {"betrayed_class", "class_names", "threat", "engine", "strongest", "strength", "remarks"}
    assert set(found) == described | {"attacks", "flags", "flagged_images"}
    assert list(found["attacks"]) == [
        "clean", "pgd-10:iterate=last,rel_step=0.25", "cw-10:rel_step=0.25", "union"
    ]  # fmt: skip
    union = found["attacks"]["union"]
    assert found["betrayed_class"] == found["class_names"][union["worst_class"]]
    assert 0 <= union["worst_lo"] <= union["worst"] <= union["average"] <= 1
    assert union["n"] == 40
    assert len(union["per_class"]) == 4
    (row,) = json.loads(fairbench("leaderboard", "show", finished.board, "--json")[1])[:1]
    assert found["attacks"]["clean"]["average"] == row["average"]
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == found
    with np.load(tmp_path / "report" / "verdicts.npz") as arrays:
        assert set(arrays.files) == {"labels", *found["attacks"]} - {"union"}


def test_an_evaluation_says_in_words_which_class_is_betrayed(finished, fairbench):
    code, out, _ = fairbench("evaluate", finished.best, "--dataset", finished.data, "--attacks", "clean", "--eps=8/255")
    assert code == 0
    assert out.startswith("Worst class: ")


def test_a_foreign_checkpoint_is_evaluated_with_its_architecture_and_gets_a_page(finished, fairbench, tmp_path):
    model = open_model(finished.best)
    torch.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, "theirs.pth")
    (tmp_path / "their_code.py").write_text(
        "from fairbench.models import build_model\n"
        "def net(num_classes, shape):\n"
        "    return build_model('small-cnn:width=4,batchnorm=true', num_classes=num_classes, shape=shape)\n"
    )
    options = ["--dataset", finished.data, "--eps", "0.1", "--attacks", "clean,fgsm", "--json"]
    _, ours, _ = fairbench("evaluate", finished.best, *options)
    code, theirs, err = fairbench(
        "evaluate", "theirs.pth", "--arch", "their_code:net", "--report", "new/page.html", *options
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(theirs)["attacks"] == json.loads(ours)["attacks"]
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    worst = json.loads(theirs)["betrayed_class"]
    assert f"<title>theirs.pth: worst class {worst}</title>" in page
    for heading in ("Accuracy by class", "What each class is taken for", "Where each class can be pushed"):
        assert f"<h2>{heading}</h2>" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "robustbnch:Name", "--dataset", "DATA"], "did you mean 'robustbench'?"),
        (["evaluate", "torchvision:resnet81", "--dataset", "DATA"], "did you mean 'resnet18'?"),
        (["evaluate", "file:nowhere.pt", "--dataset", "DATA"], "nowhere.pt: no such file"),
        (["evaluate", "BEST", "--dataset", "DATA", "--mean", "0.5"], "brings its own normalisation"),
        (["evaluate", "BEST", "--dataset", "DATA", "--mean", "half"], "--mean: expected a number"),
        (["evaluate", "BEST", "--dataset", "DATA", "--device", "cuda:99"], "device 'cuda:99'"),
        (["evaluate", "BEST", "--dataset", "DATA", "--report", "BEST/page.html"], "File exists"),
        (["run", "digit"], "unknown suite 'digit'; did you mean 'digits'?"),
        (["run", "nowhere.yaml"], "suite nowhere.yaml: no such file"),
        (["run", "SUITE", "--methods", "sax"], "unknown method 'sax'; did you mean 'sat'?"),
        (["run", "SUITE", "--methods", "sat+absld_temperatures"], "does not read"),
        (["run", "SUITE", "--set", "recipe.epoch=3"], "did you mean 'recipe.epochs'?"),
        (["run", "SUITE", "--set", "recipe.epochs=many"], "epochs"),
        (["run", "SUITE", "--set", "recipe.epochs=0"], "epochs"),
        (["run", "SUITE", "--set", "recipe.flip=7"], "flip"),
        (["run", "SUITE", "--methods", "absld", "--set", "absld.temperature_rat=1"], "temperature_rate"),
        (["run", "SUITE", "--methods", "absld", "--set", "absld.temperature_rate=hot"], "temperature_rate"),
        (["run", "SUITE", "--methods", "absld", "--set", "absld.temperature_rate=-1"], "temperature_rate"),
        (["run", "SUITE", "--set", "recipe.epochs"], "--set: expected KEY=VALUE, got 'recipe.epochs'"),
        (["run", "SUITE", "--set", "selection.attack=pgdd-10"], "unknown attack 'pgdd"),
        (["run", "SUITE", "--seeds", "0,one"], "--seeds: expected comma-separated integers, got '0,one'"),
        (["run", "SUITE", "--jobs", "0"], "'--jobs'"),
        (["run", "SUITE", "--jobs", "two"], "'--jobs'"),
        (["run", "SUITE", "--publish", "--out", "x"], "give --out or --publish, not both"),
        (["run", "SUITE", "--plugin", "nowhere.py"], "--plugin nowhere.py: not a Python file"),
        (["run", "SUITE", "--sed", "1"], "--sed"),
        (["run"], "Missing argument"),
        (["rum"], "rum"),
        ([], "give a command"),
        (["leaderboard"], "give a command"),
        (["leaderboard", "show", "digits-ablations"], "`fairbench run digits-ablations` makes one"),
        (["leaderboard", "show", "nowhere.csv"], "nowhere.csv: no such leaderboard"),
        (["leaderboard", "build", "nothing"], "fairbench run"),
        (["leaderboard", "build", "../nothing"], "fairbench run"),
        (["evaluate", "nowhere.safetensors", "--dataset", "digits"], "nowhere.safetensors: no such file"),
        (["evaluate", "BEST"], "--dataset"),
        (["evaluate", "BEST", "--dataset", "digit"], "did you mean 'digits'?"),
        (["evaluate", "BEST", "--dataset", "npz:nowhere.npz"], "nowhere.npz: no such file"),
        (["evaluate", "BEST", "--dataset", "DATA", "--attacks", "pgdd-20"], "unknown attack"),
        (["evaluate", "BEST", "--dataset", "DATA", "--attacks", "pgd-20:stepp=1"], "did you mean 'step'?"),
        (["evaluate", "BEST", "--dataset", "DATA", "--attacks", "pgd-20:step=big"], "step"),
        (["evaluate", "BEST", "--dataset", "DATA", "--eps", "big"], "--eps: expected a number or a fraction"),
        (["evaluate", "BEST", "--dataset", "DATA", "--norm", "L3", "--attacks", "clean"], "L3"),
        (["evaluate", "BEST", "--dataset", "DATA", "--out", "BEST/report"], "best.safetensors/report: Not a directory"),
        (["methods", "show", "sax"], "did you mean 'sat'?"),
        (["suites", "digit"], "did you mean 'digits'?"),
        (["datasets", "get", "cifar11"], "did you mean 'cifar10'?"),
        (["new-method", "class"], "class"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_on_stderr_and_exit_code_2(finished, fairbench, tmp_path, arguments, message):
    names = {"SUITE": finished.suite, "BEST": finished.best, "DATA": finished.data}
    words = [str(names[word]) if word in names else word.replace("BEST/", f"{finished.best}/") for word in arguments]
    code, _, err = fairbench(*words)
    assert code == 2
    assert len(err) == 1
    assert err[0].startswith("fairbench: ")
    assert message in err[0]
    assert list(tmp_path.iterdir()) == []


def test_files_with_wrong_content_are_one_line_that_names_them(finished, fairbench, tmp_path):
    content = finished.best.read_bytes()
    with np.load(finished.data.removeprefix("npz:")) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    Path("cut.safetensors").write_bytes(content[:-50])
    Path("text.safetensors").write_text("weights")
    Path("bad.csv").write_text("method,worst\nsat,0.5\n")
    Path("bad.yaml").write_text("methods: [sat\n")
    Path("odd.yaml").write_text(finished.suite.read_text() + "modell: small-cnn\n")
    np.savez("gap.npz", images=images, labels=np.where(labels == 3, 9, labels))
    np.savez("more.npz", images=images, labels=labels + np.arange(40) % 2 * 4, class_names=np.array(list("abcdefgh")))
    np.savez("negative.npz", images=images, labels=labels - 1)
    np.savez("floats.npz", images=images / 255, labels=labels)
    Path("broken.npz").write_bytes(b"PK\x03\x04")
    cases = [
        (["evaluate", "cut.safetensors", "--dataset", finished.data], "cut.safetensors: "),
        (["evaluate", "text.safetensors", "--dataset", finished.data], "text.safetensors: "),
        (["evaluate", finished.best, "--dataset", "npz:gap.npz"], "gap.npz: labels must be 0 to C-1"),
        (["evaluate", finished.best, "--dataset", "npz:more.npz"], "the model has logits for 0..3"),
        (["evaluate", finished.best, "--dataset", "npz:negative.npz"], "negative.npz: labels must not be negative"),
        (["evaluate", finished.best, "--dataset", "npz:floats.npz"], "floats.npz: images must be a uint8 array"),
        (["evaluate", finished.best, "--dataset", "npz:broken.npz"], "broken.npz: not a readable .npz file"),
        (["leaderboard", "show", "bad.csv"], "bad.csv: row 1: column 'schema' is missing"),
        (["run", "bad.yaml"], "bad.yaml"),
        (["run", "odd.yaml"], "odd.yaml: unknown setting 'modell'; did you mean 'model'"),
    ]
    for arguments, message in cases:
        code, out, err = fairbench(*arguments)
        assert (code, out, len(err)) == (2, "", 1), (arguments, err)
        assert message in err[0]


def test_debug_shows_the_traceback_behind_an_error(fairbench):
    code, _, err = fairbench("run", "digit", "--debug")
    assert code == 2
    assert err[0] == "Traceback (most recent call last):"
    assert err[-1].startswith("fairbench: unknown suite 'digit'")


class Odd(Exception):
    """An error that no code of the package raises."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Odd("first\nsecond"), "fairbench: unexpected Odd: first second; --debug shows the traceback"),
        (RecursionError("too deep"), "fairbench: unexpected RecursionError: too deep; --debug shows the traceback"),
        (MemoryError(), "fairbench: unexpected MemoryError: ; --debug shows the traceback"),
        (SystemExit(1), "fairbench: code that the command loaded called sys.exit(1)"),
        (SystemExit(None), "fairbench: code that the command loaded called sys.exit(None)"),
        (PermissionError(13, "Permission denied", "x"), "fairbench: x: Permission denied"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_that_nobody_foresaw_is_2_and_never_a_regression(fairbench, monkeypatch, error, message):
    def raising(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("fairbench.gate.check", raising)
    assert fairbench("check", "--baseline", "a", "--candidate", "b") == (2, "", [message])
    code, _, err = fairbench("check", "--baseline", "a", "--candidate", "b", "--debug")
    assert (code, err[-1]) == (2, message)


def test_an_incomplete_installation_is_2():
    code = "import sys; sys.modules['typer'] = None; import fairbench.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fairbench: the installation is incomplete: ")
    assert done.stderr.count("\n") == 1


def _commands(group: typer.core.TyperGroup, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name)


@pytest.mark.parametrize("words", list(_commands(typer.main.get_command(cli.app))), ids=" ".join)
def test_every_command_has_a_help_with_an_example(fairbench, words):
    code, out, err = fairbench(*words, "--help")
    assert (code, err) == (0, [])
    assert f"Example: fairbench {' '.join(words)}".rstrip() in " ".join(out.split())


def test_a_suite_without_a_committed_board_is_listed_as_not_measured(fairbench):
    lines = {line.split()[0]: line for line in fairbench("suites")[1].splitlines()}
    assert lines["tiny-imagenet"].endswith("(version 1, not measured)")
    assert re.search(r"\(version \d+, board v\d+\)$", lines["digits"])


@pytest.mark.parametrize("kind", ["methods", "policies", "datasets", "models", "attacks", "suites"])
def test_what_there_is_is_listed(fairbench, kind):
    code, out, err = fairbench(kind)
    assert (code, err) == (0, [])
    one = {"methods": "absld", "policies": "absld_temperatures", "datasets": "digits", "models": "small-cnn"}
    listed = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert {**one, "attacks": "pgd", "suites": "digits"}[kind] in listed
    if kind == "methods":
        assert "class policies on trades:" in out.splitlines()
        names = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
        assert sorted(json.loads(fairbench(kind, "--json")[1])) == sorted(names)
    elif kind != "suites":
        assert "\n".join(json.loads(fairbench(kind, "--json")[1])) == "\n".join(
            line.split()[0] for line in out.splitlines()
        )


def test_a_folder_that_cannot_be_written_is_one_line_before_anything_runs(make_suite, tmp_path, fairbench):
    suite = make_suite(tmp_path / "suite", methods=["sat"])
    (tmp_path / "file").touch()
    code, out, err = fairbench("run", suite, "--out", "file")
    assert (code, out) == (2, "")
    assert err == ["fairbench: --out file: cannot be written: Not a directory"]
    assert fairbench("run", suite, "--out", "new/folder", "--dry-run")[0] == 0
    assert not (tmp_path / "new").exists()


NAN = """
from fairbench import Method, StepOutput, cross_entropy, register_method


@register_method("turns_nan", summary="a loss that is no number in epoch 1")
class TurnsNaN(Method):
    def setup(self, context):
        super().setup(context)
        self.care = context.class_counts / context.class_counts.sum()

    def loss(self, model, batch, attacked):
        value = cross_entropy(model(batch.x), batch.y).mean()
        return StepOutput(value / 0 - value / 0 if self.context.epoch == 1 else value)
"""


def test_a_loss_that_is_no_number_is_one_line_and_keeps_the_last_good_epoch(make_suite, tmp_path, fairbench):
    suite = make_suite(tmp_path / "suite", methods=["sat"])
    (tmp_path / "turns_nan.py").write_text(NAN)
    code, out, err = fairbench("run", suite, "--plugin", "turns_nan.py", "--methods", "turns_nan")
    assert (code, out) == (2, "")
    assert "non-finite value in epoch 1, batch 0; class-wise state: {'care': [0.25, 0.25, 0.25, 0.25]}" in err[-1]
    assert sum(line.startswith("fairbench: ") for line in err) == 1
    (folder,) = (tmp_path / "fairbench-out" / "results" / "tiny" / "turns_nan").glob("[0-9a-f]*")
    assert json.loads((folder / "resume.json").read_text())["epoch"] == 1
    assert json.loads((folder / "run.json").read_text())["status"] == "diverged"
    assert (folder / "resume.safetensors").exists()


def _interrupt(command: list[str], folder: Path, number: signal.Signals, stage: str) -> tuple[int, float, str]:
    """Start a command, send it a signal when its log first names a stage; its exit code, seconds to end, and log."""
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        log = ""
        for line in process.stderr:
            log += line
            if stage in line:
                break
        process.send_signal(number)
        begin = time.monotonic()
        log += process.stderr.read()
        process.wait(60)
        seconds = time.monotonic() - begin
        assert process.stdout.read() == ""
    return process.returncode, seconds, log


def test_an_interrupted_run_ends_soon_keeps_its_state_and_is_finished_by_the_same_command(make_suite, tmp_path):
    suite = make_suite(tmp_path / "suite", methods=["sat"])
    command = [*COMMAND, "run", str(suite), "--out", "out", "--set", "recipe.epochs=60"]
    for number, stage in ((signal.SIGINT, "train 1/"), (signal.SIGTERM, "train ")):
        code, seconds, log = _interrupt(command, tmp_path, number, stage)
        assert code == 130
        assert seconds < 5
        assert log.splitlines()[-1].startswith("fairbench: stopped; finished work is kept")
        assert "Traceback" not in log
        (resume,) = tmp_path.glob("out/results/tiny/sat/*/resume.json")
        epoch = json.loads(resume.read_text())["epoch"]
        assert 1 <= epoch < 60
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"train {epoch + 1}/60" in done.stderr
    torch.set_num_threads(1)
    spec = plan(load_suite(str(suite)), overrides={"recipe.epochs": 60})[-1]
    execute_run(spec, tmp_path / "whole")
    folders = [RunFolder(tmp_path / root / spec.folder) for root in ("out/results", "whole")]
    for name in ("best", "last", "verdicts", "history"):
        assert getattr(folders[0], name).read_bytes() == getattr(folders[1], name).read_bytes(), name


def test_an_interrupted_evaluation_ends_soon(finished, tmp_path):
    command = [*COMMAND, "evaluate", str(finished.best), "--dataset", finished.data, "--attacks", "clean,pgd-200000"]
    code, seconds, log = _interrupt(command, tmp_path, signal.SIGINT, "clean 40/40")
    assert code == 130
    assert seconds < 5
    assert log.splitlines()[-1].startswith("fairbench: stopped")
    assert "Traceback" not in log
