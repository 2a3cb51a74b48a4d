"""Suites of published models: found in a folder, verified by their weights, evaluated, and never trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.evaluation.evaluate import evaluate
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.ranking import ranking
from fairbench.models import build_model, weights_hash
from fairbench.results.folder import RunFolder
from fairbench.run import benchmark, zoo
from fairbench.run.pipeline import execute_run
from fairbench.suites.suite import load_suite, suite_paths

MODEL = "small-cnn:width=4"


pytestmark = pytest.mark.usefixtures("launched")


def network(seed):
    torch.manual_seed(seed)
    return build_model(MODEL, num_classes=4, shape=(1, 8, 8))


def entry(name, model, *files, **more):
    listed = {"name": name, "model": MODEL, "files": list(files), "weights": weights_hash(model)}
    return listed | {"source": "https://example.org/models", "license": "MIT"} | more


@pytest.fixture
def folder(tmp_path):
    """Two published files, a NumPy archive and a pickled state dict; a third model is listed and has no file."""
    home = tmp_path / "models"
    home.mkdir()
    np.savez(home / "first.npz", **{key: value.numpy() for key, value in network(1).state_dict().items()})
    torch.save(network(2).state_dict(), home / "second.pth")
    return home


@pytest.fixture
def suite(make_suite, tmp_path, folder):
    listed = [
        entry("first", network(1), "original.pth", "first.npz", mean=[0.2], std=[0.5]),
        entry("second", network(2), "second.pth"),
        entry("third", network(3), "third.pth"),
    ]
    plain = {"model": "", "methods": [], "teacher": None, "checkpoints": listed}
    return str(make_suite(tmp_path / "suite", **plain))


def test_each_model_that_is_there_has_its_own_row(suite, folder, tmp_path):
    told = []
    specs = benchmark.prepare_plan(suite, models=folder, say=told.append)
    assert [spec.label for spec in specs] == ["first", "second"]
    assert [line for line in told if "not in" in line] == [
        f"not in {folder}: third (third.pth), licence MIT, from https://example.org/models"
    ]
    board = load_leaderboard(benchmark.execute_plan(specs, root=tmp_path))
    assert set(board["method"]) == {"first", "second"}
    assert set(board["checkpoint"]) == {"best"}
    assert ranking(board, by="worst")["rank"].notna().all()

    dataset = np.load(tmp_path / "suite" / "test.npz")
    direct = evaluate(
        build_normalized(),
        (dataset["images"], dataset["labels"]),
        attacks=["pgd-10:rel_step=0.25"],
        eps=0.1,
        flags=False,
    )
    stored = RunFolder(tmp_path / "results" / specs[0].folder).read_verdicts()
    assert stored["best/pgd-10:rel_step=0.25"].tolist() == direct.verdicts["pgd-10:rel_step=0.25"].tolist()


def build_normalized():
    model = build_model(MODEL, num_classes=4, shape=(1, 8, 8), mean=[0.2], std=[0.5])
    model.network.load_state_dict(network(1).state_dict())
    return model.eval()


def test_the_file_format_is_no_part_of_the_run_but_the_weights_are(suite, folder):
    before = benchmark.prepare_plan(suite, models=folder)
    torch.save(network(1).state_dict(), folder / "original.pth")
    after = benchmark.prepare_plan(suite, models=folder)
    assert [spec.run_id for spec in before] == [spec.run_id for spec in after]
    assert after[0].checkpoint.startswith(f"file:{folder / 'original.pth'}#")
    assert len({spec.run_id for spec in after}) == 2


def test_other_weights_under_the_same_name_are_refused(suite, folder, tmp_path):
    torch.save(network(9).state_dict(), folder / "second.pth")
    with pytest.raises(CorruptFile, match=r"second\.pth: holds other weights than the suite tiny names for second"):
        benchmark.execute_plan(benchmark.prepare_plan(suite, methods=["second"], models=folder), root=tmp_path)


def test_models_are_chosen_by_name_and_a_folder_without_any_is_one_line(suite, folder, tmp_path, monkeypatch):
    assert [spec.label for spec in benchmark.prepare_plan(suite, methods=["second"], models=folder)] == ["second"]
    with pytest.raises(UnknownName, match="did you mean 'second'"):
        benchmark.prepare_plan(suite, methods=["secnd"], models=folder)
    monkeypatch.setenv("FAIRBENCH_MODELS", str(tmp_path))
    with pytest.raises(Missing, match="none of its 3 models is in the folder that --models names; the first is first"):
        benchmark.prepare_plan(suite)
    monkeypatch.setenv("FAIRBENCH_MODELS", str(folder))
    assert len(benchmark.prepare_plan(suite)) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"methods": ["sat"]}, "not both"),
        ({"model": "small-cnn"}, "not both"),
        ({"checkpoints": []}, "needs methods and a model, or checkpoints"),
        ({"checkpoints": [{"name": "a"}]}, "give files with model and weights, or the robustbench name"),
        ({"checkpoints": [{"name": "a", "files": ["a.pt"]}]}, "files need the model and the hash"),
        ({"checkpoints": [{"name": "a", "files": ["../a.pt"], "model": "x", "weights": "0"}]}, "not paths"),
        ({"checkpoints": [{"name": "a", "robustbench": "A"}, {"name": "a", "robustbench": "B"}]}, "two checkpoints"),
        (
            {"checkpoints": [{"name": "a", "files": ["a"], "model": "evil:build", "weights": "0"}]},
            "names code to import",
        ),
        ({"checkpoints": [{"name": "a", "files": ["a"], "model": "smal-cnn", "weights": "0"}]}, "did you mean"),
    ],
)
def test_a_suite_that_cannot_be_is_one_line(suite, folder, changes, reason):
    with open(suite, encoding="utf-8") as file:  # noqa: PTH123
        tree = yaml.safe_load(file)
    with open(suite, "w", encoding="utf-8") as file:  # noqa: PTH123
        yaml.safe_dump(tree | changes, file)
    with pytest.raises(InvalidInput, match=reason):
        benchmark.prepare_plan(suite, models=folder)


def test_a_model_of_robustbench_is_opened_from_the_folder_and_told_by_its_files(tmp_path, monkeypatch, make_suite):
    file = tmp_path / "models" / "cifar10" / "Linf" / "Listed2020.pt"
    file.parent.mkdir(parents=True)
    torch.save(network(1).state_dict(), file)
    monkeypatch.setattr(zoo, "model_files", lambda name, folder: [folder / "cifar10" / "Linf" / f"{name}.pt"])
    opened = []

    def open_robustbench(name, folder):
        opened.append((name, folder))
        return network(1)

    monkeypatch.setattr("fairbench.models.opening.open_robustbench", open_robustbench)
    listed = [{"name": "listed", "robustbench": "Listed2020"}, {"name": "absent", "robustbench": "Absent2020"}]
    plain = {"model": "", "methods": [], "teacher": None, "checkpoints": listed}
    told = []
    specs = benchmark.prepare_plan(
        str(make_suite(tmp_path / "suite", **plain)), models=tmp_path / "models", say=told.append
    )
    assert [spec.label for spec in specs] == ["listed"]
    assert any("absent, robustbench:Absent2020" in line for line in told)
    benchmark.execute_plan(specs, root=tmp_path)
    assert set(opened) == {("Listed2020", tmp_path / "models")}
    torch.save(network(2).state_dict(), file)
    with pytest.raises(CorruptFile, match="changed since the run was planned"):
        execute_run(specs[0].model_copy(update={"seed": 1}), tmp_path / "results")


def test_the_shipped_suites_of_models_are_whole():
    small, listed = load_suite("zoo-small"), load_suite("zoo-robustbench")
    assert {"zoo-small", "zoo-small-2px", "zoo-robustbench"} <= set(suite_paths())
    assert len(small.checkpoints) == 4
    for model in small.checkpoints:
        assert len(model.weights) == len(model.sha256) == 64
        assert model.license
        assert model.source.startswith("https://")
    assert small.checkpoints == load_suite("zoo-small-2px").checkpoints
    assert len(listed.checkpoints) == len({model.robustbench for model in listed.checkpoints}) == 76
