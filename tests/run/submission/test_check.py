from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from committed import committed_run
from tiny_runs import tiny_specs

from fairbench.errors import InvalidInput
from fairbench.leaderboard import builder
from fairbench.leaderboard.board import load_leaderboard
from fairbench.models import build_model, load_checkpoint, save_checkpoint, weights_hash
from fairbench.results.folder import RunFolder
from fairbench.run.pipeline import execute_run
from fairbench.run.submission import check, check_submission, find_run_folders
from fairbench.suites.spec import RunSpec

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def submitted(make_suite: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a suite whose data has a relative name, and a finished run below results/."""
    home = tmp_path_factory.mktemp("submitted")
    tree = yaml.safe_load(make_suite(home / "suites").read_text())
    tree["data"]["name"] = "npz:suites/train.npz,suites/test.npz"
    (home / "suites" / "tiny.yaml").write_text(yaml.safe_dump(tree))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        (spec,) = tiny_specs(home / "suites" / "tiny.yaml", "sat")
        execute_run(spec, Path("results"))
    return home


@pytest.fixture
def run(submitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of the finished run, in a working directory of its own."""
    shutil.copytree(submitted, tmp_path / "home", ignore=shutil.ignore_patterns(".*.lock"))
    monkeypatch.chdir(tmp_path / "home")
    (found,) = find_run_folders([Path("results")])
    return RunFolder(found)


def test_what_was_run_by_the_rules_is_accepted_and_lands_on_a_board(run: RunFolder) -> None:
    outcome = check_submission(run.path)
    assert outcome.wrong == []
    assert outcome.remade == ["best/clean", "best/pgd-10:rel_step=0.25", "last/clean"]
    assert outcome.left == []
    (board,) = builder.build_boards(Path("results"), Path("leaderboards"), "tiny")
    assert "sat" in set(load_leaderboard(board)["method"])


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of the committed run of a published model; a stand-in has the hash and the labels of its dataset."""
    (source,) = (ROOT / "results" / "zoo-small" / "kw-small").glob("*/run.json")
    shutil.copytree(source.parent, tmp_path / source.parent.relative_to(ROOT))
    run = RunFolder(tmp_path / source.parent.relative_to(ROOT))
    test = SimpleNamespace(labels=run.read_verdicts()["labels"])
    record = run.read()
    dataset = SimpleNamespace(hash=record["spec"]["data_hash"], test=test, class_names=tuple(record["class_names"]))
    monkeypatch.setattr(check, "load_dataset", lambda *_, **__: dataset)
    return run


def test_the_run_of_a_published_model_has_no_history_and_is_accepted(published: RunFolder) -> None:
    outcome = check_submission(published.path)
    assert outcome.wrong == []
    assert "best/cw-30" in outcome.left


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["spec"].update(model="cnn-b"),
        lambda record: record["spec"].update(checkpoint="file:models/kw-small.npz#000000000000"),
        lambda record: record["spec"]["method"].update(name="unlisted"),
    ],
)
def test_a_published_model_that_the_suite_does_not_list_is_named(
    published: RunFolder, change: Callable[[dict[str, Any]], None]
) -> None:
    record = published.read()
    change(record)
    spec = RunSpec.model_validate(record["spec"])
    forged = RunFolder(published.path.parents[2] / spec.folder)
    forged.path.parent.mkdir(exist_ok=True)
    published.path.rename(forged.path)
    forged.write({**record, "run_id": spec.run_id, "method": spec.label})
    assert check_submission(forged.path).wrong == [
        f"{spec.label}, its architecture and its weights are not listed by zoo-small"
    ]


def test_without_weights_the_verdicts_are_accepted_as_not_made_again(run: RunFolder) -> None:
    run.best.unlink()
    outcome = check_submission(run.path)
    assert outcome.wrong == []
    assert outcome.remade == ["last/clean"]
    assert outcome.left == ["best/clean", "best/pgd-10:rel_step=0.25"]


def _attacked(run: RunFolder) -> set[str]:
    """The stored verdicts of whole attacks; a `#` marks those of one part of AutoAttack."""
    return {key for key in run.read_verdicts() if key != "labels" and "#" not in key}


def test_committed_runs_of_earlier_versions_are_checked_against_their_boards() -> None:
    run = committed_run("sat", 2, 3)
    outcome = check_submission(run.path)
    assert outcome.wrong == []
    assert len(outcome.remade) >= 10
    assert all("autoattack" in key for key in outcome.left)
    assert {*outcome.remade, *outcome.left} == _attacked(run)


def test_a_committed_run_whose_weights_are_not_kept_is_accepted_with_no_verdict_made_again() -> None:
    run = committed_run("sat", 1, 4)
    outcome = check_submission(run.path)
    assert outcome.wrong == []
    assert outcome.remade == []
    assert len(outcome.left) == 11
    assert set(outcome.left) == _attacked(run)


def _rewrite(run: RunFolder, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a record and give it its checksum again, as a forger would."""
    record = run.read()
    change(record)
    run.write(record)


def _other_verdicts(run: RunFolder) -> None:
    stored = run.read_verdicts()
    labels = stored.pop("labels")
    run.write_verdicts(labels, {**stored, "best/clean": labels})
    _rewrite(run, lambda record: None)


def _other_weights(run: RunFolder) -> None:
    model, meta = load_checkpoint(run.best)
    for parameter in model.parameters():
        parameter.data.mul_(-1)
    save_checkpoint(run.best, model, meta.spec, meta.num_classes, meta.shape, class_names=meta.class_names)
    _rewrite(run, lambda record: None)


def _wider_network(run: RunFolder) -> None:
    """Weights of a wider network than the record says, with their hash."""
    _, meta = load_checkpoint(run.last)
    model = build_model("small-cnn:width=8", num_classes=meta.num_classes, shape=meta.shape)
    save_checkpoint(run.last, model, "small-cnn:width=8", meta.num_classes, meta.shape, class_names=meta.class_names)
    _rewrite(run, lambda record: record["weights"].update(last=weights_hash(model)))


def _trained(text: str) -> Callable[[RunFolder], None]:
    """The accuracy in the last epoch of training, by which a board says how well a method fits, is this text."""

    def change(run: RunFolder) -> None:
        run.write_history([{**row, "train_correct_adv": text} for row in run.read_history()])
        _rewrite(run, lambda record: record["protocols"]["1"].update(budget="abc", tuning="untuned"))

    return change


def _other_labels(run: RunFolder) -> None:
    stored = run.read_verdicts()
    run.write_verdicts(np.roll(stored.pop("labels"), 1), stored)
    _rewrite(run, lambda record: None)


def _edit(run: RunFolder) -> None:
    record = json.loads(run.run.read_text())
    record["metrics"]["best/clean"]["worst"] = 1.0
    run.run.write_text(json.dumps(record))


def _without_checksum(run: RunFolder) -> None:
    record = json.loads(run.run.read_text())
    del record["checksum"]
    run.run.write_text(json.dumps(record))


def _protocol(run: RunFolder) -> None:
    _rewrite(run, lambda record: record["protocols"]["1"].update(hash="abc123"))


def _says(**fields: Any) -> Callable[[RunFolder], None]:
    return lambda run: _rewrite(run, lambda record: record["spec"].update(fields))


TAMPERED: dict[str, tuple[Callable[[RunFolder], Any], str]] = {
    "foreign file": (lambda run: (run.path / "run.py").write_text("1"), "run.py is no file of a run"),
    "folder": (lambda run: (run.path / "x").mkdir() or (run.path / "x" / "best.safetensors").touch(), "x/best"),
    "link": (lambda run: run.last.unlink() or run.last.symlink_to(run.best), "last.safetensors is no file of a run"),
    "no history": (lambda run: run.history.unlink(), "history.csv is missing"),
    "edited record": (_edit, "does not match its own checksum"),
    "no checksum": (_without_checksum, "run.json has no checksum of its own"),
    "edited history": (lambda run: run.history.write_text("epoch\n0\n"), "history.csv: content does not match"),
    "unfinished": (lambda run: _rewrite(run, lambda r: r.update(status="trained")), "is not finished: trained"),
    "path": (
        _says(command="fairbench run tiny --out=/home/me/out"),
        "spec.command holds a local path, /home/me/out",
    ),
    "home": (_says(command="fairbench run tiny --out ~/out"), "local path, ~/out"),
    "plug-in": (_says(plugins=["C:\\Users\\me\\mine.py"]), "run.json: spec.plugins[0] holds a local path"),
    "token": (_says(command="HF=hf_" + "a" * 30), "spec.command holds what looks like a secret"),
    "password": (_says(command="fairbench run tiny --out s3://me:word@host/x"), "what looks like a secret"),
    "protocol": (_protocol, "its protocol abc123 is not that of tiny version 1"),
    "custom": (_says(custom=True), "it ran with --set or --quick, or as a trial of tuning; such a run is never ranked"),
    "verdicts": (_other_verdicts, "best/clean: the weights give "),
    "labels": (_other_labels, "other labels than the suite's test images"),
    "weights": (_other_weights, "best.safetensors holds other weights than run.json says"),
    "network": (
        _wider_network,
        "last.safetensors holds the network small-cnn:width=8, not that of run.json",
    ),
    "attack of other code": (
        lambda run: _rewrite(run, lambda r: r["evaluations"]["best/clean"].update(source_hash="ab12")),
        "best/clean was made by other code than here",
    ),
    "class names": (lambda run: _rewrite(run, lambda r: r.update(class_names=["=1+1", "b"])), "other class names"),
    "history of words": (_trained("lots"), "train_correct_adv 'lots' is not a number"),
    "history without sense": (_trained("7.5"), "column 'train_robust': '7.5000' is not a fraction in [0,1]"),
    "history of long cells": (_trained("1" * 200_000), "history.csv: field larger than field limit"),
    "large": (
        lambda run: run.best.write_bytes(run.best.read_bytes() + bytes(1_000_000)),
        "leave larger weights out",
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_is_not_as_it_should_be_is_named(run: RunFolder, name: str) -> None:
    tamper, message = TAMPERED[name]
    tamper(run)
    wrong = check_submission(run.path).wrong
    assert any(message in reason for reason in wrong), wrong


def test_a_secret_is_not_repeated(run: RunFolder) -> None:
    _says(command="fairbench run tiny --token=abcdef")(run)
    assert not any("abcdef" in reason for reason in check_submission(run.path).wrong)


def test_other_settings_than_the_suites_are_named(run: RunFolder) -> None:
    tree = yaml.safe_load(Path("suites/tiny.yaml").read_text())
    Path("suites/tiny.yaml").write_text(yaml.safe_dump({**tree, "threat": {"eps": 0.2}, "model": "small-cnn:width=8"}))
    wrong = " ".join(check_submission(run.path).wrong)
    for what in ("its protocol", "its threat is not that of tiny version 1", "its model small-cnn:width=4"):
        assert what in wrong


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 7, "model": "small-cnn:width=8"}, "its model small-cnn:width=8 is not that of the suite, MODEL"),
        ({"source_hash": "ab12"}, "its network MODEL or its selection attack ATTACK is of other code than here"),
    ],
)
def test_a_network_of_its_own_is_named_whatever_version_a_run_states(
    run: RunFolder, changes: dict[str, Any], message: str
) -> None:
    spec = run.read()["spec"]
    other = RunSpec.model_validate({**spec, **changes})
    target = RunFolder(Path("results") / other.folder)
    run.path.rename(target.path)
    target.write({**target.read(), "spec": other.model_dump(mode="json"), "run_id": other.run_id})
    message = message.replace("MODEL", spec["model"]).replace("ATTACK", spec["selection"]["attack"])
    assert check_submission(target.path).wrong == [message]


def test_a_run_in_another_folder_than_its_own_is_named(run: RunFolder) -> None:
    moved = run.path.parent.parent / "absld" / run.path.name
    shutil.copytree(run.path, moved)
    assert any(
        f"its record is that of results/tiny/sat/{run.path.name}: give the folder this name" in w
        for w in check_submission(moved).wrong
    )


def test_a_method_that_is_not_registered_is_asked_for(run: RunFolder) -> None:
    spec = run.read()["spec"]
    spec["method"]["name"] = "mine"
    other = RunSpec.model_validate(spec)
    target = RunFolder(Path("results") / other.folder)
    shutil.copytree(run.path, target.path)
    record = {**run.read(), "spec": spec, "method": "mine", "run_id": other.run_id}
    target.write(record)
    assert check_submission(target.path).wrong == ["the method mine is not registered: add methods/mine.py"]


def test_files_beside_run_folders_and_folders_without_any_are_refused(run: RunFolder, tmp_path: Path) -> None:
    (run.path.parent / "notes.txt").touch()
    with pytest.raises(InvalidInput, match=r"notes.txt: is in no run folder"):
        find_run_folders([Path("results")])
    assert find_run_folders([run.path, run.path]) == [run.path]
    with pytest.raises(InvalidInput, match="nothing: no such folder"):
        find_run_folders([tmp_path / "nothing"])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InvalidInput, match="nothing: holds no run folder"):
        find_run_folders([tmp_path / "nothing"])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"best": ["clean"]}, "the best of its protocol"),
        ({"last": []}, "the last of its protocol"),
        ({"metrics": 2}, "the metrics of its protocol"),
    ],
)
def test_a_run_without_some_attacks_of_the_suite_is_refused(run: RunFolder, change: dict[str, Any], word: str) -> None:
    """The rows are made from the attacks that the record lists; its hash alone proves nothing."""
    _rewrite(run, lambda record: record["protocols"]["1"].update(change))
    (wrong,) = check_submission(run.path).wrong
    assert wrong.startswith(word)
    assert ", not " in wrong


def test_a_run_of_an_earlier_version_has_the_attacks_of_its_board(tmp_path: Path) -> None:
    """The committed board of version 3 says which attacks its protocol has."""
    source = committed_run("sat", 2, 3).path
    run = RunFolder(tmp_path / source.relative_to(ROOT))
    shutil.copytree(source, run.path)
    _rewrite(run, lambda record: record["protocols"]["3"].update(best=["clean", "fgsm"]))
    assert any(wrong.startswith("the best of its protocol") for wrong in check_submission(run.path).wrong)
