from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import run_suite

from fairbench.errors import InvalidInput, Missing, UnknownName
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.lookup import find_board
from fairbench.results.folder import find_runs
from fairbench.suites.spec import RunSpec


@pytest.fixture(autouse=True)
def _in_this_process(launched: list[RunSpec]) -> None:
    """Every test here launches runs in its own process."""


def _taken(launched: list[RunSpec]) -> list[str]:
    """The runs that were launched since the last call."""
    taken = [f"{spec.label} {spec.seed}" for spec in launched]
    launched.clear()
    return taken


def _state(root: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file's content and its modification time, except that of the board, which is built again."""
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path: (path.stat().st_mtime_ns if "results" in path.parts else 0, path.read_bytes()) for path in files}


def test_a_suite_ends_on_its_board_and_is_not_run_twice(make_suite, tmp_path, launched):
    suite = str(make_suite(tmp_path / "suite"))
    root = tmp_path / "out"
    board = run_suite(suite, root=root, command="fairbench run tiny")
    assert board == root / "leaderboards" / "tiny" / "v1.csv" == find_board("tiny", root)
    assert _taken(launched) == ["teacher 0", "sat 0", "absld 0"]
    rows = load_leaderboard(board)
    assert sorted(set(rows["method"])) == ["absld", "sat", "teacher"]
    assert set(rows["command"].dropna()) == {"fairbench run tiny"}
    assert rows.loc[rows["method"] == "absld", "teacher"].iloc[0] in set(rows["run_id"])
    before = _state(root)
    assert run_suite(suite, root=root, command="another") == board
    assert _taken(launched) == []
    assert _state(root) == before

    assert run_suite(suite, root=root, methods=["sat", "sat"], seeds=[1, 0, 1]) == board
    assert _taken(launched) == ["sat 1"]
    assert set(load_leaderboard(board)["seeds"]) == {1, 2}

    before = board.read_bytes()
    custom = run_suite(suite, root=root, methods=["absld", "sat"], overrides={"absld.temperature_rate": 0.5})
    assert custom.name.startswith("v1.custom-")
    assert _taken(launched) == ["absld 0"]
    assert set(load_leaderboard(custom)["method"]) == {"absld"}
    assert find_board("tiny", root) == board
    assert board.read_bytes() == before

    figures = custom.read_bytes()
    other = run_suite(suite, root=root, methods=["absld"], overrides={"absld.temperature_rate": 0.25})
    assert _taken(launched) == ["absld 0"]
    assert len({board, custom, other}) == 3, "each changed setting has a board of its own"
    assert (custom.read_bytes(), board.read_bytes()) == (figures, before)

    runs = find_runs(root / "results", "tiny")
    verdicts = next(run.verdicts for run, record in runs if (record["method"], record["seed"]) == ("sat", 0))
    whole = verdicts.read_bytes()
    verdicts.write_bytes(whole[:-7])
    assert run_suite(suite, root=root) == board
    assert len(_taken(launched)) == 1
    assert verdicts.read_bytes() == whole


def test_a_suite_with_one_more_attack_keeps_its_weights_on_a_new_version(make_suite, tmp_path, monkeypatch):
    folder = tmp_path / "suite"
    first = run_suite(str(make_suite(folder, methods=["sat"])), root=tmp_path)
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    before = first.read_bytes()
    more = {"best": ["clean", "pgd-10:rel_step=0.25", "fgsm"], "last": ["clean"], "batch_size": 40}
    suite = str(make_suite(folder, methods=["sat"], version=2, evaluation=more))
    second = run_suite(suite, root=tmp_path)
    assert (first.name, second.name) == ("v1.csv", "v2.csv")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == weights
    assert first.read_bytes() == before
    boards = [load_leaderboard(path) for path in (first, second)]
    assert [("fgsm" in set(board["attack"])) for board in boards] == [False, True]
    shared = [board[board["attack"] == "clean"]["average"].dropna().tolist() for board in boards]
    assert shared[0] == shared[1]
    assert boards[0]["protocol"].iloc[0] != boards[1]["protocol"].iloc[0]
    assert find_board("tiny", tmp_path) == second


def test_a_quick_run_is_a_suite_of_its_own(make_suite, tmp_path):
    suite = str(make_suite(tmp_path / "suite"))
    board = run_suite(suite, root=tmp_path, quick=True, methods=["sat"])
    assert board == tmp_path / "leaderboards" / "tiny-quick" / "v1.csv"
    rows = load_leaderboard(board)
    assert rows["quick"].all()
    assert set(rows["attack"]) == {"clean", "union"}
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["tiny-quick"]


def test_settings_that_change_nothing_are_not_custom(make_suite, tmp_path):
    suite = str(make_suite(tmp_path / "suite", methods=["sat"]))
    board = run_suite(suite, root=tmp_path, overrides={"recipe.epochs": 2})
    assert board.name == "v1.csv"


def test_a_method_of_your_own_runs_from_a_file(make_suite, tmp_path, monkeypatch):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from fairbench import Method, StepOutput, cross_entropy, register_method\n\n\n"
        '@register_method("mine_for_the_benchmark", summary="plain training")\n'
        "class Mine(Method):\n"
        "    def loss(self, model, batch, attacked):\n"
        "        return StepOutput(cross_entropy(model(batch.x), batch.y).mean())\n"
    )
    from fairbench import registry

    monkeypatch.setattr(registry, "_plugin_files", {})
    registry.add_plugin(plugin)
    suite = str(make_suite(tmp_path / "suite"))
    board = run_suite(suite, methods=["mine_for_the_benchmark"], root=tmp_path, plugins=[str(plugin)])
    assert set(load_leaderboard(board)["method"]) == {"mine_for_the_benchmark"}


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"methods": ["sax"]}, UnknownName, "unknown method 'sax'; did you mean 'sat'"),
        ({"seeds": []}, InvalidInput, "seeds: tuple should have at least 1 item"),
        ({"overrides": {"recipe.epoch": 1}}, UnknownName, "'recipe.epoch'; did you mean 'recipe.epochs'"),
        ({"overrides": {"recipe.epochs": "many"}}, InvalidInput, "epochs"),
        ({"overrides": {"absld.temperature_rat": 1}}, UnknownName, "temperature_rate"),
        ({"overrides": {"absld.temperature_rate": "hot"}}, InvalidInput, "temperature_rate"),
        ({"suite": "tinyy"}, UnknownName, "unknown suite 'tinyy'"),
        ({"suite": "tinyy.yaml"}, Missing, "tinyy.yaml: no such file"),
    ],
)
def test_a_wrong_name_or_value_stops_before_anything_is_written(make_suite, tmp_path, wrong, kind, message):
    arguments = {"suite": str(make_suite(tmp_path / "suite")), "root": tmp_path / "out", **wrong}
    with pytest.raises(kind) as caught:
        run_suite(arguments.pop("suite"), **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["best", "last", "selection"])
def test_an_attack_that_does_not_exist_costs_no_training(make_suite, tmp_path, launched, where):
    evaluation: dict[str, Any] = {"best": ["clean"], "last": ["clean"]}
    changes = {"selection": {"attack": "pgdd-20"}} if where == "selection" else {where: ["pgdd-20"]}
    suite = make_suite(
        tmp_path / "suite", **(changes if where == "selection" else {"evaluation": {**evaluation, **changes}})
    )
    with pytest.raises(UnknownName, match="unknown attack 'pgdd"):
        run_suite(str(suite), root=tmp_path / "out")
    assert launched == []


def test_the_newest_version_of_a_board_is_found_by_number(tmp_path):
    folder = tmp_path / "leaderboards" / "tiny"
    folder.mkdir(parents=True)
    for name in ("v9.csv", "v10.csv", "v10.classes.csv", "v11.custom-abc.csv", "vx.csv"):
        (folder / name).touch()
    assert find_board("tiny", tmp_path) == folder / "v10.csv"
    assert find_board("some/where.csv", tmp_path) == Path("some/where.csv")


def test_a_board_that_is_not_there_says_what_makes_it(tmp_path):
    with pytest.raises(Missing, match="no leaderboard; `fairbench run svhn` makes one"):
        find_board("svhn", tmp_path)
    with pytest.raises(Missing, match=r"nothing: no leaderboard; committed boards: .*digits"):
        find_board("nothing", tmp_path)


def test_labels_out_of_range_are_named(make_suite, tmp_path):
    suite = str(make_suite(tmp_path / "suite", methods=["sat"]))
    with np.load(tmp_path / "suite" / "test.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    for label, message in ((7, "label 7 at position 3 is out of range"), (-1, "must not be negative, got -1")):
        labels[3] = label
        np.savez(tmp_path / "suite" / "test.npz", images=images, labels=labels)
        with pytest.raises(InvalidInput, match=message):
            run_suite(suite, root=tmp_path / "out")
