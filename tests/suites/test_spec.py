from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fairbench.errors import InvalidInput, UnknownName
from fairbench.suites.sections import DataConfig, Environment, Evaluation, MethodSpec, Recipe, Selection, ThreatSection
from fairbench.suites.spec import RunSpec
from fairbench.suites.values import digest


def run(**settings) -> RunSpec:
    base = {
        "suite": "mine",
        "version": 1,
        "method": MethodSpec(name="sat", base="sat", options={"sat": {}}),
        "data": DataConfig(name="digits"),
        "data_hash": "d" * 64,
        "model": "small-cnn",
        "recipe": Recipe(),
        "threat": ThreatSection(),
        "selection": Selection(),
        "evaluation": Evaluation(),
        "seed": 0,
        "environment": Environment(torch="2.9"),
        "protocol": "p" * 12,
    }
    return RunSpec(**{**base, **settings})


# ---------------------------------------------------------------- values


@given(st.floats(1e-300, 1e300), st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_number_its_text_and_its_fraction_are_the_same(value, top, bottom):
    assert ThreatSection(eps=repr(value)).eps == ThreatSection(eps=value).eps == value
    assert ThreatSection(eps=f"{top}/{bottom}").eps == top / bottom
    assert ThreatSection(eps=f" {top} / {bottom} ").eps == top / bottom


@given(st.floats())
def test_a_threat_takes_exactly_the_finite_positive_numbers(value):
    if 0 < value < float("inf"):
        assert ThreatSection(eps=value).eps == value
    else:
        with pytest.raises(ValidationError):
            ThreatSection(eps=value)


recipes = st.builds(
    Recipe,
    epochs=st.integers(1, 1000),
    batch_size=st.integers(1, 1000),
    lr=st.floats(1e-6, 10),
    momentum=st.floats(0, 1, exclude_max=True),
    nesterov=st.booleans(),
    schedule=st.sampled_from(["multistep", "onecycle", "constant"]),
    milestones=st.lists(st.floats(0, 1), max_size=3).map(tuple),
    precision=st.sampled_from(["float32", "bf16", "float64"]),
)


@given(recipes)
def test_a_run_comes_back_from_json_with_its_id(recipe):
    options = {"sat": {"rate": 0.1, "milestones": (0.25, 1 / 3)}}
    spec = run(recipe=recipe, method=MethodSpec(name="sat", base="sat", options=options), teacher=run(seed=3))
    again = RunSpec.model_validate_json(spec.model_dump_json())
    assert again.recipe == recipe
    assert again.run_id == spec.run_id
    assert again.teacher == spec.teacher


@given(recipes, recipes)
def test_ids_and_recipe_hashes_differ_exactly_when_recipes_do(one, other):
    assert (run(recipe=one).run_id == run(recipe=other).run_id) == (one == other)
    assert (run(recipe=one).recipe_hash == run(recipe=other).recipe_hash) == (one == other)


def test_digest_is_of_the_canonical_json():
    assert digest({"a": 1, "b": [0.1]}) == digest({"b": [0.1], "a": 1})
    assert digest({}) == "44136fa355b3"  # the first digits of sha256("{}")
    assert digest(1) != digest(1.0)


def test_a_recipe_can_be_overridden_alone():
    changed = Recipe().override({"epochs": "5", "lr": "1/8"}, "the teacher")
    assert (changed.epochs, changed.lr, changed.batch_size) == (5, 0.125, 128)
    with pytest.raises(UnknownName, match=r"^unknown recipe setting of the teacher 'epoch'; did you mean 'epochs'\?$"):
        Recipe().override({"epoch": 5}, "the teacher")
    with pytest.raises(InvalidInput, match=r"^recipe of the teacher: epochs: .*, got 0$"):
        Recipe().override({"epochs": 0}, "the teacher")


# ---------------------------------------------------------------- run ids


TEACHER = run(role="teacher", seed=5)


@pytest.mark.parametrize(
    "changed",
    [
        {"evaluation": Evaluation(best=("clean",))},
        {"evaluation": Evaluation(last=())},
        {"command": "fairbench run mine"},
        {"plugins": ("/home/me/mine.py",)},
        {"version": 2},
        {"protocol": "q" * 12},
        {"quick": True},
        {"custom": True},
        {"role": "teacher"},
        {"data": DataConfig(name="npz:the,same")},
    ],
)
def test_an_id_ignores_what_does_not_change_the_weights_or_a_verdict(changed):
    assert run(**changed).run_id == run().run_id


@pytest.mark.parametrize(
    "changed",
    [
        {"suite": "other"},
        {"seed": 1},
        {"model": "resnet18"},
        {"data_hash": "e" * 64},
        {"data": DataConfig(name="digits", validation_per_class=5)},
        {"data": DataConfig(name="digits", test_per_class=5)},
        {"recipe": Recipe(epochs=3)},
        {"threat": ThreatSection(eps=0.1)},
        {"selection": Selection(every=2)},
        {"evaluation": Evaluation(batch_size=10)},
        {"evaluation": Evaluation(seed=1)},
        {"method": MethodSpec(name="sat", base="sat", options={"sat": {"beta": 1.0}})},
        {"method": MethodSpec(name="sat", base="sat", options={"sat": {}}, source_hash="0123")},
        {"method": MethodSpec(name="sat", base="sat", options={"sat": {}}, policies=("p",))},
        {"teacher": TEACHER},
        {"natural_teacher": TEACHER},
        {"warm_start": TEACHER},
        {"teacher": "file:a.safetensors#0123"},
        {"environment": Environment(torch="2.10")},
        {"environment": Environment(torch="2.9", device="cuda")},
        {"environment": Environment(torch="2.9", threads=2)},
    ],
)
def test_an_id_changes_with_what_determines_the_result(changed):
    assert run(**changed).run_id != run().run_id


def test_an_id_follows_the_teachers():
    ids = [
        run(teacher=TEACHER).run_id,
        run(natural_teacher=TEACHER).run_id,
        run(teacher=run(role="teacher", seed=6)).run_id,
        run(teacher="file:a#0123").run_id,
        run(teacher="file:a#4567").run_id,
    ]
    assert len(set(ids)) == len(ids)
    assert run(teacher=TEACHER.model_copy(update={"command": "x"})).run_id == ids[0]
    assert run(teacher="file:elsewhere/b#0123").run_id == ids[3]


def test_a_run_knows_its_place_and_what_it_waits_for():
    student = run(teacher=TEACHER, warm_start="file:a#0123")
    assert student.prerequisites == [TEACHER, "file:a#0123"]
    assert student.folder == Path("mine/sat") / student.run_id
    assert run(role="natural-teacher").folder.parts[1] == "natural-teacher"
    assert len(student.run_id) == 12


def test_the_label_of_data_hides_folders():
    assert DataConfig(name="npz:/home/me/a.npz,/data/b.npz").label == "npz:a.npz,b.npz"
    assert DataConfig(name="folder:/home/me/photos").label == "folder:photos"
    assert DataConfig(name="digits").label == "digits"
