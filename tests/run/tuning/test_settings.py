"""What runs make of tuned settings: whose count, which methods share a ranking, what an ablation inherits."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_runs import run_suite
from tunings import TUNING, copy_tuning, entry, rows_of, write

from fairbench import registry
from fairbench.errors import InvalidInput, UnknownName
from fairbench.gate import check
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.ranking import oracle, ranking
from fairbench.results.folder import RunFolder, find_runs
from fairbench.run.benchmark import prepare_plan
from fairbench.run.tuning import tune
from fairbench.suites.chosen import Chosen, chosen_text, shipped_path, user_path
from fairbench.suites.suite import load_suite

PLUGIN = """
from fairbench import register_method
from fairbench.methods.sat import SAT

@register_method("late", summary="came after the others were tuned", provenance="paper")
class Late(SAT):
    pass
"""


def test_three_methods_with_three_rates_share_a_ranking_and_an_untuned_one_stands_apart(suite, tmp_path):
    recipes = {"sat": {"lr": 0.05}, "trades": {"lr": 0.1}, "rslad": {"lr": 0.2, "weight_decay": 5e-4}}
    write(suite, tmp_path, **{name: entry(suite, tmp_path, recipe) for name, recipe in recipes.items()})
    said: list[str] = []
    path = run_suite(suite, root=tmp_path, methods=[*recipes, "absld", "mart", "bat", "wat"], say=said.append)
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
        f"tuned settings of {', '.join(recipes)}: {user_path(tmp_path, 'tiny', 1)} (yours)",
        "untuned: teacher, absld, mart, bat, wat; trained with the suite's recipe and not ranked against tuned methods"
        "; `fairbench tune` finds settings",
    ]
    custom = run_suite(suite, root=tmp_path, methods=["trades"], overrides={"selection.rule": "test"})
    assert set(oracle(path, board)) == {"trades"}
    assert load_leaderboard(custom)["tuning"].iloc[0] == "tuned"


def test_a_method_with_a_recipe_of_its_own_is_ranked(make_suite, tmp_path):
    suite = str(make_suite(tmp_path / "suite", tuning=TUNING, warm_start={"method": "sat"}))
    frame = ranking(load_leaderboard(run_suite(suite, root=tmp_path, methods=["sat", "frl"]))).set_index("method")
    assert set(frame.index[frame["rank"].notna()]) == {"sat", "frl"}
    (record,) = (tmp_path / "results" / "tiny" / "frl").glob("*/run.json")
    own = RunFolder(record.parent).read()["cost"]["forwards"]
    assert frame.loc["frl", "forwards"] == own + frame.loc["warm-start", "forwards"]


def test_a_plugin_that_comes_late_is_tuned_alone_and_ranked_among_the_others(tuned, suite, tmp_path, launched):
    root = copy_tuning(tuned, tmp_path)
    run_suite(suite, root=root)
    launched.clear()
    plugin = tmp_path / "late.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    registry.add_plugin(plugin)
    tune(suite, methods=["late"], root=root, plugins=[str(plugin)])
    assert {spec.label for spec in launched} == {"late"}
    assert {len(rows_of(root, name)) for name in ("late", "sat", "absld")} == {4}
    path = run_suite(suite, root=root, methods=["late"], plugins=[str(plugin)])
    frame = ranking(load_leaderboard(path)).set_index("method")
    ranked = frame[frame["rank"].notna()]
    assert set(ranked.index) == {"late", "sat", "absld"}  # equal figures, which short trainings have, share a rank
    assert ranked["rank"].tolist() == ranked["worst"].round(9).rank(method="min", ascending=False).tolist()
    assert set(frame["tuning"]) == {"tuned"}
    plugin.write_text(PLUGIN + "\n# changed\n", encoding="utf-8")
    assert prepare_plan(suite, methods=["late"], root=root, plugins=[str(plugin)])[-1].tuning == "untuned"


def test_settings_are_marked_on_runs_that_finished_before_they_were_chosen(suite, tmp_path, launched):
    board = run_suite(suite, root=tmp_path, methods=["sat"])
    assert set(load_leaderboard(board)["tuning"].dropna()) == {"untuned"}
    write(suite, tmp_path, sat=entry(suite, tmp_path, {"lr": 0.1}, prerequisites={}))  # the suite's own
    launched.clear()
    run_suite(suite, root=tmp_path, methods=["sat"])
    assert len(launched) == 1  # the same run: nothing is trained or attacked again, its record says what it is now
    assert set(load_leaderboard(board)["tuning"].dropna()) == {"tuned"}
    assert len(find_runs(tmp_path / "results", "tiny")) == 1


def test_runs_of_an_older_version_stay_beside_the_new_ones(suite, make_suite, tmp_path):
    """`build` gives each version its board, and `check` compares a version with itself."""
    old = run_suite(str(make_suite(tmp_path / "old")), root=tmp_path, methods=["sat"])
    before = old.read_bytes()
    newer = yaml.safe_load(Path(suite).read_text()) | {"version": 2}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(newer), encoding="utf-8")
    tune(str(path), methods=["sat"], root=tmp_path)
    new = run_suite(str(path), root=tmp_path, methods=["sat"])
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
    specs = {spec.label: spec for spec in prepare_plan(suite, methods=["absld", *inherits], root=tmp_path)}
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
    (plain,) = prepare_plan(suite, methods=["trades"], root=tmp_path)
    assert (plain.recipe.lr, plain.method.options["trades"]["beta"], plain.custom) == (0.05, 1.0, False)
    changes = {"recipe.lr": 0.3, "trades.beta": 2.0}
    (own,) = prepare_plan(suite, methods=["trades"], root=tmp_path, overrides=changes)
    assert (own.recipe.lr, own.method.options["trades"]["beta"], own.custom) == (0.3, 2.0, True)


def test_settings_beside_a_strangers_suite_are_not_read(suite, tmp_path):
    folder = tmp_path / "stranger"
    (folder / "tuned").mkdir(parents=True)
    path = folder / "tiny.yaml"
    path.write_text(Path(suite).read_text(), encoding="utf-8")
    write(suite, folder, sat=entry(suite, tmp_path, {"lr": 0.05}))
    (folder / "tuned" / "tiny-v1.yaml").write_bytes(user_path(folder, "tiny", 1).read_bytes())
    (spec,) = prepare_plan(str(path), methods=["sat"], root=tmp_path / "mine")
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
    sat, trades = prepare_plan("tiny", methods=["sat", "trades"], root=tmp_path / "mine", say=said.append)
    assert (sat.recipe.lr, trades.recipe.lr) == (0.2, 0.05)
    assert said == [
        f"tuned settings of sat: {user_path(tmp_path / 'mine', 'tiny', 1)} (yours)",
        f"tuned settings of trades: {home / 'tuned' / 'tiny-v1.yaml'} (shipped with the package)",
    ]
    (copy,) = prepare_plan(
        suite, methods=["trades"], root=tmp_path / "mine"
    )  # a file that calls itself by the same name
    assert copy.tuning == "untuned"


def test_digits_and_its_ablations_share_a_budget_and_every_ablation_inherits():
    digits, ablations = load_suite("digits"), load_suite("digits-ablations")
    assert digits.budget("0", 9) == ablations.budget("0", 9) != digits.budget("0", None)
    assert ablations.tuned_on == "digits"
    assert set(ablations.methods) - set(ablations.inherits) == {"rslad", "absld", "absld_released"}
    shipped, published = shipped_path("digits", 4), user_path(Path(__file__).parents[3], "digits", 4)
    assert shipped.exists() == published.exists()
    assert not shipped.exists() or shipped.read_bytes() == published.read_bytes()


def test_settings_of_another_budget_are_void(suite, make_suite, tmp_path):
    write(suite, tmp_path, sat=entry(suite, tmp_path, {"lr": 0.05}))
    longer = yaml.safe_load(Path(suite).read_text())
    longer["recipe"]["epochs"] = 3
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(longer), encoding="utf-8")
    assert [prepare_plan(name, methods=["sat"], root=tmp_path)[0].tuning for name in (suite, str(path))] == [
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
