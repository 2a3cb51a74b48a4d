"""The command line on untrusted input: code that runs is announced, and errors are one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fairbench import registry

PLUGIN = """
from pathlib import Path
from fairbench import register_loss, register_model
from fairbench.losses import cross_entropy

Path("plugin-ran").touch()

@register_model("mine")
def build(num_classes, shape):
    import torch
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))

@register_loss("my-loss")
def loss(logits, y):
    return cross_entropy(logits, y)
"""


@pytest.fixture
def command(monkeypatch, fairbench) -> Callable[..., tuple[int, str, list[str]]]:
    """The fixture `fairbench`, without the registrations of its commands after a test."""
    monkeypatch.setattr(registry, "_plugin_files", {})
    for known in (registry.models, registry.losses):
        for name in known.names():
            known.get(name)  # a module registers once: what it registered must not be forgotten after a test
        for part in ("_loaded", "_details", "_source"):
            monkeypatch.setattr(known, part, dict(getattr(known, part)))
    return fairbench


def test_a_suite_names_a_model_and_a_loss_that_a_plugin_registers(command, make_suite, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    attack = "pgd-5:rel_step=0.5,loss=my-loss"
    suite = make_suite(tmp_path / "suite", methods=["sat"], model="mine", evaluation={"best": [attack]})
    code, out, err = command("run", suite, "--dry-run", "--plugin", "mine.py")
    assert (code, err) == (0, [f"--plugin: the code of {tmp_path}/mine.py runs with your rights"])
    assert "sat seed 0" in out
    assert Path("plugin-ran").exists()


def test_code_named_on_the_command_line_runs_and_is_announced(command, make_suite, tmp_path):
    (tmp_path / "trust_code.py").write_text(PLUGIN.replace('"mine"', '"mine2"').replace('"my-loss"', '"my-loss2"'))
    suite = make_suite(tmp_path / "suite", methods=["sat"])
    code, _, err = command("run", suite, "--dry-run", "--set", "model=trust_code:build")
    assert (code, err) == (0, ["--set: the code of trust_code:build runs with your rights"])
    data = ["--dataset", f"npz:{tmp_path}/suite/test.npz", "--eps", "0.1", "--no-flags"]
    attack = "pgd-5:rel_step=0.5,loss=trust_code:loss"
    code, _, err = command("evaluate", "trust_code:build", *data, "--attacks", f"clean,{attack}")
    assert code == 0
    assert err[:2] == [
        "MODEL: the code of trust_code:build runs with your rights",
        "--attacks: the code of trust_code:loss runs with your rights",
    ]


def test_what_is_no_code_is_not_announced(command, make_suite, tmp_path):
    suite = make_suite(tmp_path / "suite", methods=["sat"])
    settings = ["--set", "model=small-cnn:width=3", "--set", "recipe.epochs=3", "--set", "data.name=digits"]
    code, _, err = command("run", suite, "--dry-run", *settings)
    assert (code, err) == (0, [])


def test_credentials_of_a_url_are_neither_kept_nor_shown(command, make_suite, tmp_path):
    settings = {"recipe": {"epochs": 1, "batch_size": 32, "attack_steps": 1}, "selection": {"attack": "fgsm"}}
    suite = make_suite(tmp_path / "suite", methods=["sat"], evaluation={"best": ["clean"], "last": []}, **settings)
    url = "memory://USER:s3cr3tPASS@bucket/dir"
    code, out, err = command("run", suite, "--jobs", "1", "--out", url)
    assert code == 0, err
    answers = [out, *err, *map(str, tmp_path.rglob("*"))]
    answers += [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    for place in (f"--board={url}/leaderboards/tiny/v1.csv", f"--out={url}"):
        code, out, err = command("show", "sat/0", place)
        assert code == 0, err
        answers += [out, *err]
    for place in (f"{url}/results/none", "nowhere://USER:s3cr3tPASS@bucket", "a::s3://USER:s3cr3tPASS@b"):
        code, out, err = command("check", "--baseline", place, "--candidate", place)
        assert (code, len(err)) == (2, 1)
        answers += [out, *err]
    assert not any("s3cr3tPASS" in answer for answer in answers)
    assert "--out memory://bucket/dir" in "".join(answers)


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "x", "--dataset", "digits", "--out"],
        ["evaluate", "x", "--dataset", "digits", "--report"],
        ["report", "run", "--out"],
        ["leaderboard", "html", "digits", "--out"],
    ],
)
def test_a_url_where_files_go_to_the_disk_makes_no_folder_of_its_name(command, words, tmp_path):
    code, _, err = command(*words, "s3://USER:s3cr3tPASS@bucket/dir")
    assert (code, len(err)) == (2, 1)
    assert "'s3://bucket/dir' is a URL" in err[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["1" + "0" * 400, "9" * 5000, "-" + "9" * 400, "1e999"])
@pytest.mark.parametrize(
    "option", ["--eps", "--seed", "--batch-size", "--mean", "--attacks=pgd-", "--attacks=pgd-9:step="]
)
def test_numbers_that_no_machine_holds_are_one_line(command, make_suite, tmp_path, option, number):
    make_suite(tmp_path / "suite")
    words = [option, number] if "=" not in option else [f"{option}{number}"]
    data = ["--dataset", f"npz:{tmp_path}/suite/test.npz", "--no-flags", "--eps", "0.1"]
    code, _, err = command("evaluate", "small.pt", *data, "--arch", "small-cnn", *words)
    assert (code, len(err)) == (2, 1)
    code, _, err = command("run", tmp_path / "suite" / "tiny.yaml", "--dry-run", "--seeds", number)
    assert (code, len(err)) == (2, 1)


@pytest.mark.parametrize("name", ["..", ".", "", "../..", "x/..", "/", "tiny/../.."])
def test_a_build_writes_nowhere_but_in_its_folder(command, tmp_path, name):
    (tmp_path / "out" / "results" / "tiny").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    code, _, err = command("leaderboard", "build", name, "--out", "out")
    assert (code, len(err)) == (2, 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_code_named_as_an_architecture_is_announced_before_the_file_is_opened(command):
    code, _, err = command("evaluate", "absent.pt", "--arch", "trust_arch:build", "--dataset", "digits")
    assert code == 2
    assert err[0] == "--arch: the code of trust_arch:build runs with your rights"
