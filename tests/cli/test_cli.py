"""What commands print, and their help."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import typer

from fairbench import cli
from fairbench.leaderboard.board import load_leaderboard
from fairbench.models import open_model


def test_a_run_shows_progress_on_stderr_and_its_board_alone_on_stdout(finished):
    plan, estimate, *err = [line for line in finished.done.stderr.splitlines() if not line.startswith("total: ")]
    assert plan.startswith("tiny v1: 1 run of sat; seed 0; 0 done, ")
    assert estimate == "no estimate for 1 of the runs: no committed run has this network, dataset and attacks"
    assert all(line.startswith("sat seed 0: ") for line in err)
    stages = [line.removeprefix("sat seed 0: ").split()[0] for line in err]
    assert stages[0] == "start"
    assert stages[-1] == "done"
    assert {"train", "evaluate"} <= set(stages)
    assert any("train 2/2 loss" in line for line in err)
    out = finished.done.stdout.splitlines()
    assert out[0].startswith("tiny v1: dataset npz:train.npz,test.npz, protocol ")
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
    described = {"betrayed_class", "class_names", "data_hash", "threat", "engine", "strongest", "strength", "remarks"}
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


def test_an_evaluation_names_the_worst_class_in_a_sentence(finished, fairbench):
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


@pytest.mark.parametrize("words", list(_commands(typer.main.get_command(cli.app))), ids=" ".join)
def test_a_help_page_is_whole_at_80_columns_explains_everything_and_types_no_flag(fairbench, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = fairbench(*words, "--help")[1]
    assert "…" not in out
    assert "<bool>" not in out
    assert max(map(len, out.splitlines())) <= 80
    command = typer.main.get_command(cli.app)
    for word in words:
        command = command.commands[word]
    assert [one.name for one in command.params if not one.help] == []


def test_a_suite_without_a_committed_board_is_listed_as_not_measured(fairbench):
    lines = {line.split()[0]: line for line in fairbench("suites")[1].splitlines()}
    assert lines["tiny-imagenet"].endswith("(version 1, not measured)")
    assert re.search(r"\(version \d+, board v\d+\)$", lines["digits"])


def test_a_name_without_show_says_how_it_is_shown(fairbench):
    for group, name in (("methods", "absld"), ("leaderboard", "digits")):
        code, _, err = fairbench(group, name)
        assert code == 2
        assert err[0].endswith(f" To show one of that name: fairbench {group} show {name}")
    assert "To show" not in fairbench("methods", "checkk")[2][0]


def test_a_suite_is_shown_as_other_names_are(fairbench):
    assert fairbench("suites", "show", "digits") == fairbench("suites", "digits")
    code, _, err = fairbench("suites", "digits", "cifar10")
    assert (code, err) == (2, ["fairbench: suites shows one suite, not 2: digits cifar10"])


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
