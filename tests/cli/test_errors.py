"""Errors of the command line: one line on stderr, and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fairbench.cli.values import parse_settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "robustbnch:Name", "--dataset", "DATA"], "did you mean 'robustbench'?"),
        (["evaluate", "torchvision:resnet81", "--dataset", "DATA"], "did you mean 'resnet18'?"),
        (["evaluate", "file:nowhere.pt", "--dataset", "DATA"], "nowhere.pt: no such file"),
        (["evaluate", "BEST", "--dataset", "DATA", "--mean", "0.5"], "brings its own normalisation"),
        (["evaluate", "BEST", "--dataset", "DATA", "--mean", "half"], "--mean: expected a number"),
        (["evaluate", "BEST", "--dataset", "DATA", "--device", "cuda:99"], "device 'cuda:99'"),
        (["evaluate", "BEST", "--dataset", "DATA", "--report", "BEST/page.html"], "cannot be written: Not a directory"),
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
        (["run", "SUITE", "--set", "recipe.lr=1", "--set", "recipe.lr=2"], "--set: recipe.lr is given twice"),
        (
            ["run", "SUITE", "--set", "recipe.precision=bf16", "--precision", "float64"],
            "--set: recipe.precision is given twice",
        ),
        (["run", "SUITE", "--set", "=3"], "--set: expected KEY=VALUE, got '=3'"),
        (["run", "SUITE", "--set", "recipe.epochs"], "--set: expected KEY=VALUE, got 'recipe.epochs'"),
        (["run", "SUITE", "--set", "selection.attack=pgdd-10"], "unknown attack 'pgdd"),
        (["run", "SUITE", "--seeds", "0,one"], "--seeds: expected comma-separated integers, got '0,one'"),
        (["run", "SUITE", "--jobs", "0"], "'--jobs'"),
        (["run", "SUITE", "--jobs", "two"], "'--jobs'"),
        (["run", "SUITE", "--publish", "--out", "x"], "give --out or --publish, not both"),
        (["run", "SUITE", "--address", "one:6379"], "--address one:6379 names a Ray cluster: add --launcher ray"),
        (["tune", "SUITE", "--address", "one:6379"], "--address one:6379 names a Ray cluster: add --launcher ray"),
        (["run", "SUITE", "--models", "."], "--models .: tiny trains its networks and reads no published models"),
        (["run", "SUITE", "--plugin", "nowhere.py"], "--plugin nowhere.py: not a Python file"),
        (["run", "SUITE", "--sed", "1"], "--sed"),
        (["run"], "Missing argument"),
        (["rum"], "rum"),
        ([], "give a command"),
        (["leaderboard"], "give a command"),
        (["leaderboard", "show", "cifar10-small"], "`fairbench run cifar10-small` makes one"),
        (["leaderboard", "show", "nowhere.csv"], "nowhere.csv: no such leaderboard"),
        (["leaderboard", "build", "nothing"], "fairbench run"),
        (["leaderboard", "build", "../nothing"], "fairbench run"),
        (["evaluate", "nowhere.safetensors", "--dataset", "digits"], "nowhere.safetensors: no such file"),
        (["evaluate", "BEST"], "--dataset"),
        (["evaluate", "BEST", "--dataset", "DATA", "--attacks", ""], "--attacks is empty: name some of"),
        (["evaluate", "BEST", "--dataset", "DATA", "--attacks", "pgd20"], "'pgd20'; did you mean 'pgd-20'?"),
        (["evaluate", "BEST", "--dataset", "digit"], "did you mean 'digits'?"),
        (["evaluate", "BEST", "--dataset", "npz:nowhere.npz"], "nowhere.npz: no such file"),
        (["evaluate", "BEST", "--dataset", "DATA", "--attacks", "pgdd-20"], "unknown attack"),
        (["evaluate", "BEST", "--dataset", "DATA", "--attacks", "pgd-20:stepp=1"], "did you mean 'step'?"),
        (["evaluate", "BEST", "--dataset", "DATA", "--attacks", "pgd-20:step=big"], "step"),
        (["evaluate", "BEST", "--dataset", "DATA", "--eps", "big"], "--eps: expected a number or a fraction"),
        (["evaluate", "BEST", "--dataset", "DATA", "--norm", "L3", "--attacks", "clean"], "L3"),
        (["evaluate", "BEST", "--dataset", "DATA", "--out", "BEST/report"], "cannot be written: Not a directory"),
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
        (["evaluate", finished.best, "--dataset", "npz:more.npz"], "the model has 4 logits, the dataset 8 classes"),
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


def test_values_of_settings_have_the_type_that_they_are_written_in():
    texts = ["recipe.lr=1/4", "recipe.epochs=3", "recipe.flip=true", "model=small-cnn:width=3", "x="]
    found = parse_settings(texts)
    assert found == {
        "recipe.lr": 0.25,
        "recipe.epochs": 3,
        "recipe.flip": True,
        "model": "small-cnn:width=3",
        "x": "",
    }
    assert list(map(type, found.values())) == [float, int, bool, str, str]
    assert parse_settings(None) == {}
