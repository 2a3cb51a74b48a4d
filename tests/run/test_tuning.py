"""Tuning from end to end on the tiny suite: real trials, real kills, and boards that rank what was tuned."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fairbench import registry
from fairbench.data import load_dataset
from fairbench.errors import InvalidInput, UnknownName
from fairbench.gate import check
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.ranking import oracle, ranking
from fairbench.results.folder import RunFolder, find_runs
from fairbench.run import benchmark, pipeline
from fairbench.run.benchmark import prepare, run
from fairbench.run.pipeline import execute
from fairbench.run.tuning import render, tune
from fairbench.run.tuning.table import TrialRow, read_table, table_path
from fairbench.suites.chosen import Chosen, Entry, chosen_text, shipped_path, user_path
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import load_suite
from mortal import die_at_rename

TUNING = {"lr": [0.05, 0.2], "trials": 4, "epochs": 2}
PLUGIN = """
from fairbench import register_method
from fairbench.methods.sat import SAT

@register_method("late", summary="came after the others were tuned", provenance="paper")
class Late(SAT):
    pass
"""


@pytest.fixture(autouse=True)
def launched(monkeypatch) -> Iterator[list[RunSpec]]:
    """Runs are executed in this process, and listed."""
    done: list[RunSpec] = []

    def launch(specs: list[RunSpec], results: Path, **_: Any) -> None:
        for spec in specs:
            execute(spec, results)
            done.append(spec)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(benchmark, "launch", launch)
    yield done
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def suite(make_suite: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny suite, with tuning: its images are held out of all methods' training alike."""
    folder = tmp_path_factory.mktemp("suite")
    plain = yaml.safe_load(make_suite(folder).read_text())
    return str(make_suite(folder, data={**plain["data"], "hold_out_alike": True}, tuning=TUNING))


@pytest.fixture(scope="module")
def tuned(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a finished tuning of the suite's two methods; to be read, not changed."""
    root = tmp_path_factory.mktemp("tuned")
    said: list[str] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "launch", lambda specs, results, **_: [execute(spec, results) for spec in specs])
        tune(suite, root=root, say=said.append)
    torch.set_num_threads(threads)
    assert [line.partition(":")[0] for line in choices(said)] == ["teacher", "sat", "absld"]
    return root


def choices(said: list[str]) -> list[str]:
    """What a tuning says of its choices, without the plan and the estimate of time before every group of runs."""
    return [line for line in said if not line.startswith(("tiny v1: ", "about ", "no estimate for "))]


def rows_of(root: Path, method: str | None = None) -> list[TrialRow]:
    rows = read_table(table_path(root, "tiny", 1))
    return [row for row in rows if method in (None, row.method)]


def settings(root: Path) -> Chosen:
    return Chosen.model_validate(yaml.safe_load(user_path(root, "tiny", 1).read_text()))


def timeless(root: Path) -> list[TrialRow]:
    return [row.model_copy(update={"train_seconds": 0.0}) for row in rows_of(root)]


def copy_tuning(root: Path, target: Path) -> Path:
    """The two files of a tuning, without the runs."""
    for path in (table_path(root, "tiny", 1), user_path(root, "tiny", 1)):
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return target


# ---------------------------------------------------------------- trials


def test_every_method_gets_the_same_trials(tuned):
    by_method = {name: rows_of(tuned, name) for name in ("teacher", "sat", "absld")}
    assert {len(rows) for rows in by_method.values()} == {4}
    assert len({row.budget for row in rows_of(tuned)}) == 1
    for rows in by_method.values():
        first = [(json.loads(row.recipe), row.seed) for row in rows[:2]]
        assert first == [({"lr": 0.05}, 1000), ({"lr": 0.2}, 1000)]
        assert [row.seed for row in rows[2:]] == [1001, 1001]
        assert len({row.run_id for row in rows}) == 4


def test_trials_are_scored_on_all_images_that_are_held_out_and_not_steered_by(tuned, suite, tmp_path):
    assert {row.n for row in rows_of(tuned)} == {4 * (5 + 4)}
    tune(suite, methods=["wat"], root=copy_tuning(tuned, tmp_path), trials=None)
    assert {row.n for row in rows_of(tmp_path, "wat")} == {4 * 5}  # it steers by the method split


def test_methods_train_on_the_same_images_where_splits_are_held_out_alike(suite, make_suite, tmp_path):
    from fairbench.train.splits import divide

    dataset = load_dataset(load_suite(suite).data.name)
    (spec,) = prepare(suite, methods=["sat"], root=tmp_path)
    own, steered = (divide(dataset, spec, method_split=needed) for needed in (False, True))
    assert np.array_equal(own.train, steered.train)
    assert np.array_equal(own.spare, steered.method)
    assert len(own.method) == len(steered.spare) == 0
    (other,) = prepare(str(make_suite(tmp_path / "plain")), methods=["sat"], root=tmp_path)
    assert len(divide(dataset, other, method_split=False).train) == len(own.train) + len(own.spare)


def test_no_trial_reads_a_test_image(suite, tmp_path, monkeypatch):
    """Nor does the training of the frozen teacher: the test split that runs are given raises at any touch."""

    class Sealed:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"a test image was read: {name}")

    def sealed(name: str, **how: Any) -> Any:
        dataset = load_dataset(name, **how)
        assert dataset.hash  # of both splits, before the test split is sealed
        object.__setattr__(dataset, "test", Sealed())
        return dataset

    monkeypatch.setattr(pipeline, "load_dataset", sealed)
    tune(suite, root=tmp_path)
    assert len(rows_of(tmp_path)) == 12
    monkeypatch.setattr(benchmark, "builder", SimpleNamespace(build=None))
    with pytest.raises(AssertionError, match="a test image was read"):
        run(suite, root=tmp_path, methods=["sat"])


def test_a_trial_keeps_no_weights_and_is_on_no_board(tuned, suite):
    for row in rows_of(tuned):
        folder = RunFolder(tuned / "results" / "tiny" / row.method / row.run_id)
        assert {path.name for path in folder.path.iterdir()} == {"run.json", "history.csv"}
        assert folder.read()["status"] == "trained"
    assert find_runs(tuned / "results", "tiny") == []


def test_a_setting_that_diverges_is_a_finding_and_not_a_failure(make_suite, tmp_path):
    wild = str(make_suite(tmp_path / "wild", tuning={**TUNING, "lr": [1e30, 0.1]}))
    tune(wild, methods=["sat"], root=tmp_path)
    rows = rows_of(tmp_path, "sat")
    assert [row.status for row in rows[:2]] == ["diverged", "scored"]
    assert settings(tmp_path).methods["sat"].recipe == {"lr": 0.1}
    assert "diverged" in render(wild, tmp_path)
    hopeless = str(make_suite(tmp_path / "hopeless", tuning={**TUNING, "lr": [1e30]}))
    said: list[str] = []
    tune(hopeless, methods=["sat"], root=tmp_path / "none", trials=1, say=said.append)
    assert said[0].startswith("tiny v1: 1 run of sat; seed 1000; 0 done")
    assert choices(said) == ["sat: every trial diverged; it stays untuned"]
    assert settings(tmp_path / "none").methods == {}


# ---------------------------------------------------------------- resumption


def test_the_same_seeds_make_the_same_choice(tuned, suite, tmp_path):
    tune(suite, root=tmp_path)
    assert user_path(tmp_path, "tiny", 1).read_bytes() == user_path(tuned, "tiny", 1).read_bytes()
    assert timeless(tmp_path) == timeless(tuned)


def test_a_killed_tuning_goes_on_and_ends_as_one_that_was_not(tuned, suite, tmp_path):
    """SIGKILL at moments from the first trial to the last; each start goes on from what the one before left."""
    kills = 0
    for moment in (9, 40, 77, 121, 160):
        child = os.fork()
        if child == 0:
            signal.alarm(200)
            die_at_rename(moment)
            try:
                tune(suite, root=tmp_path)
            except BaseException:
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        kills += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            break
    assert kills >= 3
    tune(suite, root=tmp_path)
    assert user_path(tmp_path, "tiny", 1).read_bytes() == user_path(tuned, "tiny", 1).read_bytes()
    assert timeless(tmp_path) == timeless(tuned)


def test_finished_trials_are_taken_from_the_table_alone(tuned, suite, tmp_path, launched):
    """As in a new checkout, which has the committed table and no run folders: only the frozen teacher is trained."""
    tune(suite, root=copy_tuning(tuned, tmp_path))
    assert [(spec.role, spec.trial) for spec in launched] == [("teacher", None)]
    assert timeless(tmp_path) == timeless(tuned)
    launched.clear()
    tune(suite, root=tmp_path)
    assert launched == []


def test_a_method_that_is_also_the_warm_start_has_rows_of_its_own(make_suite, tmp_path, launched):
    suite = str(make_suite(tmp_path / "suite", tuning=TUNING, warm_start={"method": "sat"}))
    tune(suite, methods=["sat", "frl"], root=tmp_path)
    rows = {name: rows_of(tmp_path, name) for name in ("warm-start", "sat", "frl")}
    assert {len(of_method) for of_method in rows.values()} == {4}
    assert [row.run_id for row in rows["sat"]] == [row.run_id for row in rows["warm-start"]]
    assert len([spec for spec in launched if spec.trial and spec.label != "frl"]) == 4  # equal trials run once


def test_a_changed_teacher_voids_the_trials_of_its_students(tuned, suite, tmp_path, launched):
    root = copy_tuning(tuned, tmp_path)
    chosen = settings(root)
    before = chosen.prerequisites["teacher"]
    other = {"lr": 0.05 if before.recipe["lr"] == 0.2 else 0.2}
    (bare, *_) = prepare(suite, root=tmp_path / "none")
    changed = bare.model_copy(update={"recipe": bare.recipe.override(other, "test")})
    entry = before.model_copy(update={"recipe": other, "options": {}, "frozen": changed.frozen_id})
    user_path(root, "tiny", 1).write_text(
        chosen_text(chosen.model_copy(update={"prerequisites": {"teacher": entry}})), encoding="utf-8"
    )
    said: list[str] = []
    marks = {spec.label: spec.tuning for spec in prepare(suite, root=root, say=said.append)}
    assert marks == {"teacher": "tuned", "sat": "tuned", "absld": "untuned"}
    assert any("the tuned settings of absld are void" in line for line in said)
    tune(suite, root=root)
    assert {spec.label for spec in launched if spec.trial} == {"absld"}
    assert {row.prerequisites for row in rows_of(root, "absld")} == {f"teacher={changed.frozen_id}"}
    assert prepare(suite, methods=["absld"], root=root)[-1].tuning == "tuned"


# ---------------------------------------------------------------- runs and boards


def entry(suite: str, root: Path, recipe: dict[str, Any], **changes: Any) -> Entry:
    """An entry as tuning writes it, without its trials."""
    chosen = load_suite(suite)
    needed = {"teacher": prepare(suite, methods=["absld"], root=root)[0].frozen_id}
    budget = chosen.budget(load_dataset(chosen.data.name).hash, chosen.tuning.trials)
    figures = {"score": 0.5, "score_se": 0.1, "average": 0.6, "worst": 0.4}
    return Entry(**{"recipe": recipe, "trials": 4, "budget": budget, "prerequisites": needed, **figures, **changes})


def write(suite: str, root: Path, **methods: Entry) -> None:
    path = user_path(root, load_suite(suite).name, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(chosen_text(Chosen(suite=load_suite(suite).name, version=1, methods=methods)), encoding="utf-8")


def test_three_methods_with_three_rates_share_a_ranking_and_an_untuned_one_stands_apart(suite, tmp_path):
    recipes = {"sat": {"lr": 0.05}, "trades": {"lr": 0.1}, "rslad": {"lr": 0.2, "weight_decay": 5e-4}}
    write(suite, tmp_path, **{name: entry(suite, tmp_path, recipe) for name, recipe in recipes.items()})
    said: list[str] = []
    path = run(suite, root=tmp_path, methods=[*recipes, "absld", "mart", "bat", "wat"], say=said.append)
    board = load_leaderboard(path)
    assert board.groupby("method")["recipe_hash"].first()[[*recipes]].nunique() == 3
    ranked = ranking(board).set_index("method")
    assert set(ranked.index[ranked["rank"].notna()]) == {*recipes}  # more methods are untuned than are tuned
    assert ranked["tuning"].to_dict() == {
        **dict.fromkeys(recipes, "tuned"),
        **dict.fromkeys(("absld", "mart", "bat", "wat", "teacher"), "untuned"),
    }
    assert ranked["train_robust"].between(0, 1).all()
    assert said == [
        f"tuned settings of {', '.join(recipes)}: {user_path(tmp_path, 'tiny', 1)} (the user's)",
        "untuned, with the suite's recipe, and not ranked against tuned methods: teacher, absld, mart, bat, wat",
    ]
    custom = run(suite, root=tmp_path, methods=["trades"], overrides={"selection.rule": "test"})
    assert set(oracle(path, board)) == {"trades"}
    assert load_leaderboard(custom)["tuning"].iloc[0] == "tuned"


def test_a_method_with_a_recipe_of_its_own_is_ranked(make_suite, tmp_path):
    suite = str(make_suite(tmp_path / "suite", tuning=TUNING, warm_start={"method": "sat"}))
    frame = ranking(load_leaderboard(run(suite, root=tmp_path, methods=["sat", "frl"]))).set_index("method")
    assert set(frame.index[frame["rank"].notna()]) == {"sat", "frl"}
    (record,) = (tmp_path / "results" / "tiny" / "frl").glob("*/run.json")
    own = RunFolder(record.parent).read()["cost"]["forwards"]
    assert frame.loc["frl", "forwards"] == own + frame.loc["warm-start", "forwards"]


def test_a_plugin_that_comes_late_is_tuned_alone_and_ranked_among_the_others(tuned, suite, tmp_path, launched):
    root = copy_tuning(tuned, tmp_path)
    run(suite, root=root)
    launched.clear()
    plugin = tmp_path / "late.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    registry.add_plugin(plugin)
    tune(suite, methods=["late"], root=root, plugins=[str(plugin)])
    assert {spec.label for spec in launched} == {"late"}
    assert {len(rows_of(root, name)) for name in ("late", "sat", "absld")} == {4}
    path = run(suite, root=root, methods=["late"], plugins=[str(plugin)])
    frame = ranking(load_leaderboard(path)).set_index("method")
    ranked = frame[frame["rank"].notna()]
    assert set(ranked.index) == {"late", "sat", "absld"}  # equal figures, which short trainings have, share a rank
    assert ranked["rank"].tolist() == ranked["worst"].round(9).rank(method="min", ascending=False).tolist()
    assert set(frame["tuning"]) == {"tuned"}
    plugin.write_text(PLUGIN + "\n# changed\n", encoding="utf-8")
    assert prepare(suite, methods=["late"], root=root, plugins=[str(plugin)])[-1].tuning == "untuned"


def test_settings_are_marked_on_runs_that_finished_before_they_were_chosen(suite, tmp_path, launched):
    board = run(suite, root=tmp_path, methods=["sat"])
    assert set(load_leaderboard(board)["tuning"].dropna()) == {"untuned"}
    write(suite, tmp_path, sat=entry(suite, tmp_path, {"lr": 0.1}, prerequisites={}))  # the suite's own
    launched.clear()
    run(suite, root=tmp_path, methods=["sat"])
    assert len(launched) == 1  # the same run: nothing is trained or attacked again, its record says what it is now
    assert set(load_leaderboard(board)["tuning"].dropna()) == {"tuned"}
    assert len(find_runs(tmp_path / "results", "tiny")) == 1


def test_runs_of_an_older_version_stay_beside_the_new_ones(suite, make_suite, tmp_path):
    """`build` gives each version its board, and `check` compares a version with itself."""
    old = run(str(make_suite(tmp_path / "old")), root=tmp_path, methods=["sat"])
    before = old.read_bytes()
    newer = yaml.safe_load(Path(suite).read_text()) | {"version": 2}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(newer), encoding="utf-8")
    tune(str(path), methods=["sat"], root=tmp_path)
    new = run(str(path), root=tmp_path, methods=["sat"])
    assert (old.name, new.name) == ("v1.csv", "v2.csv")
    assert old.read_bytes() == before
    assert "tuning" not in load_leaderboard(old)
    assert set(load_leaderboard(new)["tuning"].dropna()) == {"tuned"}
    for board in (old, new):
        assert check(board, tmp_path, max_drop=0.0).passed
    assert len(find_runs(tmp_path / "results", "tiny")) == 2


def test_an_ablation_inherits_the_settings_of_what_it_takes_apart(make_suite, tmp_path):
    inherits = {"absld_uniform": "absld", "label_smoothing": "absld"}
    suite = str(make_suite(tmp_path / "suite", tuning=TUNING, inherits=inherits))
    options = {"absld.kl_scale": 1.0, "absld.temperature_rate": 0.5}
    write(suite, tmp_path, absld=entry(suite, tmp_path, {"lr": 0.05}, options=options))
    specs = {spec.label: spec for spec in prepare(suite, methods=["absld", *inherits], root=tmp_path)}
    assert {name: spec.tuning for name, spec in specs.items()} == {
        "teacher": "untuned",
        "absld": "tuned",
        **dict.fromkeys(inherits, "inherited"),
    }
    assert {specs[name].recipe.lr for name in ("absld", *inherits)} == {0.05}
    assert specs["absld_uniform"].method.options["rslad"]["kl_scale"] == 1.0
    assert len({specs[name].budget for name in ("absld", *inherits)}) == 1
    with pytest.raises(InvalidInput, match="absld_uniform has no trials of its own: it inherits the settings of absld"):
        tune(suite, methods=["absld_uniform"], root=tmp_path)


def test_what_the_user_sets_wins_over_what_was_tuned(suite, tmp_path):
    write(suite, tmp_path, trades=entry(suite, tmp_path, {"lr": 0.05}, options={"trades.beta": 1.0}))
    (plain,) = prepare(suite, methods=["trades"], root=tmp_path)
    assert (plain.recipe.lr, plain.method.options["trades"]["beta"], plain.custom) == (0.05, 1.0, False)
    changes = {"recipe.lr": 0.3, "trades.beta": 2.0}
    (own,) = prepare(suite, methods=["trades"], root=tmp_path, overrides=changes)
    assert (own.recipe.lr, own.method.options["trades"]["beta"], own.custom) == (0.3, 2.0, True)


# ---------------------------------------------------------------- where settings are read from


def test_settings_beside_a_strangers_suite_are_not_read(suite, tmp_path):
    folder = tmp_path / "stranger"
    (folder / "tuned").mkdir(parents=True)
    path = folder / "tiny.yaml"
    path.write_text(Path(suite).read_text(), encoding="utf-8")
    write(suite, folder, sat=entry(suite, tmp_path, {"lr": 0.05}))
    (folder / "tuned" / "tiny-v1.yaml").write_bytes(user_path(folder, "tiny", 1).read_bytes())
    (spec,) = prepare(str(path), methods=["sat"], root=tmp_path / "mine")
    assert (spec.tuning, spec.recipe.lr) == ("untuned", 0.1)


def test_shipped_settings_are_for_the_packages_own_suites_and_the_users_come_first(suite, tmp_path, monkeypatch):
    from fairbench.suites import chosen as files
    from fairbench.suites import suite as suites

    home = tmp_path / "package"
    (home / "tuned").mkdir(parents=True)
    (home / "tiny.yaml").write_text(Path(suite).read_text(), encoding="utf-8")
    monkeypatch.setattr(suites, "HOME", home)
    monkeypatch.setattr(files, "HOME", home)
    both = {name: entry(suite, tmp_path, {"lr": 0.05}) for name in ("sat", "trades")}
    text = chosen_text(Chosen(suite="tiny", version=1, methods=both))
    (home / "tuned" / "tiny-v1.yaml").write_text(text, encoding="utf-8")
    write(suite, tmp_path / "mine", sat=entry(suite, tmp_path, {"lr": 0.2}))
    said: list[str] = []
    sat, trades = prepare("tiny", methods=["sat", "trades"], root=tmp_path / "mine", say=said.append)
    assert (sat.recipe.lr, trades.recipe.lr) == (0.2, 0.05)
    assert said == [
        f"tuned settings of sat: {user_path(tmp_path / 'mine', 'tiny', 1)} (the user's)",
        f"tuned settings of trades: {home / 'tuned' / 'tiny-v1.yaml'} (shipped with the package)",
    ]
    (copy,) = prepare(suite, methods=["trades"], root=tmp_path / "mine")  # a file that calls itself by the same name
    assert copy.tuning == "untuned"


def test_digits_and_its_ablations_share_a_budget_and_every_ablation_inherits():
    digits, ablations = load_suite("digits"), load_suite("digits-ablations")
    assert digits.budget("0", 9) == ablations.budget("0", 9) != digits.budget("0", None)
    assert ablations.tuned_on == "digits"
    assert set(ablations.methods) - set(ablations.inherits) == {"rslad", "absld", "absld_released"}
    shipped, published = shipped_path("digits", 4), user_path(Path(__file__).parents[2], "digits", 4)
    assert shipped.exists() == published.exists()
    assert not shipped.exists() or shipped.read_bytes() == published.read_bytes()


def test_settings_of_another_budget_are_void(suite, make_suite, tmp_path):
    write(suite, tmp_path, sat=entry(suite, tmp_path, {"lr": 0.05}))
    longer = yaml.safe_load(Path(suite).read_text())
    longer["recipe"]["epochs"] = 3
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(longer), encoding="utf-8")
    assert [prepare(name, methods=["sat"], root=tmp_path)[0].tuning for name in (suite, str(path))] == [
        "tuned",
        "untuned",
    ]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({"tuned_on": "digits"}, {}, "^suite tiny runs with the settings tuned on digits: tune that one$"),
        ({"seeds": [0, 1000]}, {}, "^seed 1000 is one that suite tiny evaluates: trials have seeds of their own$"),
        ({}, {"seeds": [0]}, "^seed 0 is one that suite tiny evaluates"),
        ({"tuning": {"lr": []}}, {}, "tuning.lr: "),
        ({"tuning": {"lr": [0.1], "trial": 3}}, {}, "'tuning.trial'; did you mean 'tuning.trials'"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(make_suite, tmp_path, change, arguments, message):
    with pytest.raises((InvalidInput, UnknownName), match=message):
        tune(str(make_suite(tmp_path, **change)), root=tmp_path, **arguments)


# ---------------------------------------------------------------- what is shown


def test_show_prints_scores_with_standard_errors(tuned, suite):
    lines = render(suite, tuned).splitlines()
    assert lines[0].split() == ["method", "setting", "seeds", "score", "average", "worst", "n"]
    assert lines[1].split()[0] == "teacher"
    assert sum(line.endswith("*") for line in lines) == 3
    assert all("±" in line for line in lines[1:] if line.startswith(("teacher", "sat", "absld")))
    only = render(suite, tuned, ["sat"])
    assert "absld" not in only.partition("\n\n")[0]
    with pytest.raises(UnknownName, match=r"sta.*did you mean 'sat'"):
        render(suite, tuned, ["sta"])


def test_the_command_tunes_and_shows(tuned, suite, tmp_path, monkeypatch, capsys):
    from fairbench import cli

    copy_tuning(tuned, tmp_path)
    words = ["fairbench", "tune", suite, "--methods", "sat", "--jobs", "1", "--out", str(tmp_path)]
    for arguments in (words, [*words, "--show"]):
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 0
        assert capsys.readouterr().out.startswith("method")
    monkeypatch.setattr(sys, "argv", [*words[:-1], "memory://somewhere"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "tuning writes to a folder" in capsys.readouterr().err
