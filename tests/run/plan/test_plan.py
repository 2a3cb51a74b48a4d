"""The runs of a plan: their order, their folders, and what is refused before the training."""

from __future__ import annotations

from pathlib import Path

import pytest
from planned import suite

from fairbench import registry
from fairbench.errors import FairbenchError, InvalidInput, UnknownName
from fairbench.run.plan import plan
from fairbench.suites.sections import Environment, Recipe
from fairbench.suites.suite import load_suite


def test_the_teacher_stands_first_and_once():
    runs = plan(suite(), seeds=[3, 4])
    assert [(spec.role, spec.label, spec.seed) for spec in runs] == [
        ("teacher", "teacher", 0),
        *[("student", name, seed) for name in ("sat", "trades", "rslad", "absld") for seed in (3, 4)],
    ]
    teacher = runs[0]
    assert (teacher.model, teacher.recipe) == ("small-cnn:width=8", Recipe(epochs=5))
    for spec in runs[1:]:
        assert spec.teacher == (teacher if spec.label in ("rslad", "absld") else None)
        assert (spec.model, spec.recipe.epochs) == ("small-cnn:width=4", 20)
    assert len({spec.run_id for spec in runs}) == len(runs)


def test_names_and_seeds_count_once():
    runs = plan(suite(), methods=["sat", "trades", "sat"], seeds=[1, 1, 0])
    assert [(spec.label, spec.seed) for spec in runs] == [("sat", 1), ("sat", 0), ("trades", 1), ("trades", 0)]


@pytest.mark.parametrize("seeds", [[-1], [2**63], []])
def test_seeds_that_no_run_can_have_are_refused_before_any_run(seeds):
    with pytest.raises(InvalidInput, match="seeds"):
        plan(suite(), seeds=seeds)


def test_methods_and_seeds_are_those_of_the_suite_unless_named():
    runs = plan(suite(seeds=[7], methods=["sat"]))
    assert [(spec.label, spec.seed) for spec in runs] == [("sat", 7)]


def test_planning_twice_gives_the_same():
    environment = Environment(torch="2.9", threads=2)
    one, other = (plan(suite(), environment=environment, plugins=["a"], command="c") for _ in range(2))
    assert one == other
    assert {(spec.environment, spec.plugins, spec.command) for spec in one} == {(environment, ("a",), "c")}
    assert len({spec.data_hash for spec in one}) == 1
    assert {spec.protocol for spec in one} == {suite().protocol(one[0].data_hash)}


def test_runs_live_in_folders_of_their_own():
    folders = [spec.folder for spec in plan(suite(), seeds=[0, 1])]
    assert len(set(folders)) == len(folders) == 9
    assert {folder.parts[0] for folder in folders} == {"mine"}
    assert folders[0] == Path("mine") / "teacher" / plan(suite())[0].run_id


def test_all_names_every_method_but_ablations_with_reconstructions_last():
    names = [
        spec.method.name for spec in plan(load_suite("digits"), methods=["all"], seeds=[0]) if spec.role == "student"
    ]
    assert names[:4] == ["sat", "trades", "rslad", "absld"]
    kinds = {name: registry.methods.details(name).get("provenance") for name in registry.methods.names()}
    assert set(names) == {name for name in kinds if kinds[name] != "ablation"}
    assert "ablation" in kinds.values()
    unsure = [kinds[name] == "reconstruction" for name in names]
    assert unsure == sorted(unsure)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"evaluation": {"best": ["clean", "pgd20"]}}, r"unknown attack 'pgd20'"),
        ({"evaluation": {"last": ["pgd-20:stp=1"]}}, "'stp'; did you mean 'step'"),
        ({"selection": {"attack": "pgd-2:rel_step=0.1"}}, "less than 1.5 eps"),
        ({"data": {"name": "digit"}}, r"unknown dataset 'digit'; did you mean 'digits'\?"),
    ],
)
def test_an_unknown_attack_or_dataset_is_refused_before_the_training(changed, message):
    with pytest.raises(FairbenchError, match=message):
        plan(suite(**changed))


def test_an_architecture_that_does_not_exist_stops_before_anything_is_trained():
    with pytest.raises(UnknownName, match="did you mean 'small-cnn'"):
        plan(suite(model="smal-cnn"))


def test_a_budget_in_grey_levels_is_refused_before_the_training():
    suite = load_suite("digits").override({"threat.norm": "L2", "threat.eps": 128})
    with pytest.raises(InvalidInput, match="eps 128 in L2 reaches beyond every image"):
        plan(suite)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data.test_per_class": 51}, "cannot take 51 images of every class: class "),
        ({"version": 10**10}, "version"),
        ({"evaluation.best": []}, "evaluation.best"),
        ({"evaluation.batch_size": 2**40}, "evaluation.batch_size"),
    ],
)
def test_what_only_the_evaluation_reads_is_refused_before_the_training(change, said):
    with pytest.raises(InvalidInput, match=said):
        plan(load_suite("digits").override(change), methods=["sat"])
