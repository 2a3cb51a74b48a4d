"""Overridden settings of a plan: which runs they reach, and which are refused."""

from __future__ import annotations

import pytest
from planned import students, suite

from fairbench.errors import InvalidInput, UnknownName
from fairbench.run.plan import plan


def test_a_setting_of_a_method_reaches_that_method_alone():
    runs = plan(suite(), overrides={"absld.temperature_rate": 0.05})
    found = students(runs)
    assert found["absld"].method.options["absld_temperatures"]["temperature_rate"] == 0.05
    assert {label for label, spec in found.items() if spec.custom} == {"absld"}
    assert not runs[0].custom
    assert found["sat"].run_id == students(plan(suite()))["sat"].run_id
    assert found["absld"].run_id != students(plan(suite()))["absld"].run_id


def test_a_setting_of_a_policy_reaches_every_method_with_it():
    names = ["sat", "absld", "absld_released"]
    found = students(plan(suite(), methods=names, overrides={"absld_temperatures.temperature_rate": 0.05}))
    assert [found[name].custom for name in names] == [False, True, True]
    for name in names[1:]:
        assert found[name].method.options["absld_temperatures"]["temperature_rate"] == 0.05


def test_a_setting_of_a_base_reaches_every_method_on_it():
    found = students(plan(suite(), overrides={"rslad.kl_scale": 1}))
    assert {label for label, spec in found.items() if spec.custom} == {"rslad", "absld"}
    for name in ("rslad", "absld"):
        assert found[name].method.options["rslad"]["kl_scale"] == 1.0


def test_a_setting_of_a_method_reaches_its_base():
    found = students(plan(suite(), overrides={"absld.kl_scale": 0.5}))
    assert found["absld"].method.options["rslad"]["kl_scale"] == 0.5
    assert found["rslad"].method.options["rslad"]["kl_scale"] == 0.1


def test_a_composition_in_place_can_be_set_by_its_whole_name():
    name = "rslad+absld_temperatures"
    (spec,) = students(plan(suite(), methods=[name], overrides={f"{name}.temperature_rate": 0})).values()
    assert (spec.custom, spec.method.options["absld_temperatures"]["temperature_rate"]) == (True, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iad.late_order": "adv"}, "IAD: late_order: input should be 'adv-clean', "),
        (
            {"iad2.robust_share": 0.9, "iad2.natural_share": 0.3},
            r"IAD2: shares 0\.9 and 0\.3 exceed 1 together",
        ),
        (
            {"absld_manual.temperatures": (1.0, 2.0)},
            "ManualTemperatures: temperatures: give 10 positive numbers, one a class",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_any_teacher_is_trained(settings, message):
    own = suite(natural_teacher={"method": "natural"})
    with pytest.raises(InvalidInput, match=f"^{message}"):
        plan(own, methods=["iad", "iad2", "absld_manual"], overrides=settings)


def test_the_teacher_keeps_its_own_settings():
    teacher, *_ = plan(suite(), overrides={"trades.beta": 1})
    assert (teacher.method.options, teacher.custom) == (
        {"trades": {"beta": 6.0, "pass_order": "clean-adv-clean"}},
        False,
    )


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("recipe.epochs", 3, lambda spec: spec.recipe.epochs),
        ("threat.eps", 0.25, lambda spec: spec.threat.eps),
        ("data.validation_per_class", 7, lambda spec: spec.data.validation_per_class),
        ("selection.every", 2, lambda spec: spec.selection.every),
        ("evaluation.batch_size", 10, lambda spec: spec.evaluation.batch_size),
        ("model", "resnet18", lambda spec: spec.model),
    ],
)
def test_a_setting_of_a_section_reaches_every_student(key, value, read):
    found = students(plan(suite(), overrides={key: value}))
    assert len(found) == 4
    for spec in found.values():
        assert read(spec) == value
        assert spec.custom


def test_a_changed_section_changes_the_teacher_too():
    teacher, *_ = plan(suite(), overrides={"recipe.epochs": 3, "threat.eps": 0.25})
    assert teacher.custom
    assert (teacher.recipe.epochs, teacher.threat.eps) == (5, 0.25)  # its own recipe says how long it trains


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"recipe.epochs": 20},
        {"threat.eps": "8/255"},
        {"absld.temperature_low": 0.5, "rslad.kl_scale": "0.1"},
        {"absld.shared_storage": False, "trades.beta": 6},
    ],
)
def test_settings_that_change_nothing_are_not_custom(overrides):
    assert plan(suite(), overrides=overrides) == plan(suite())
    assert not any(spec.custom for spec in plan(suite(), overrides=overrides))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("absld.temperature_rat", 1, r"unknown hyper-parameter of absld '.*'; did you mean 'temperature_rate'\?"),
        ("rslad.kl_scal", 1, r"unknown hyper-parameter of rslad 'kl_scal'; did you mean 'kl_scale'\?"),
        ("absld_temperatures.rat_decay", 1, r"unknown hyper-parameter of .*'; did you mean 'rate_decay'\?"),
        ("sat.beta", 1, "unknown hyper-parameter of sat 'beta'; none are known"),
        ("abdls.temperature_rate", 1, r"unknown setting '.*'; did you mean 'absld.temperature_rate'\?"),
        ("temperature_rate", 1, "unknown suite setting 'temperature_rate'; known: "),
        ("recip.epochs", 1, r"unknown setting '.*'; did you mean 'recipe.epochs'\?"),
        ("recipe.epoch", 1, r"unknown suite setting '.*'; did you mean 'recipe.epochs'\?"),
        ("epochs", 1, "unknown suite setting 'epochs'"),
        ("teacher.method", "sat", "unknown setting 'teacher.method'"),
        (".", 1, "unknown setting '.'"),
        ("absld.", 1, "unknown hyper-parameter of absld ''"),
        ("absld.temperature_rate", "fast", "ABSLDTemperatures: temperature_rate: .* number.*, got 'fast'"),
        ("absld.temperature_rate", True, r"ABSLDTemperatures: temperature_rate: expected float \| None, got True"),
        ("absld.temperature_rate", -1, "ABSLDTemperatures: temperature_rate: .* greater than or equal to 0, got -1"),
        ("absld.shared_storage", 0.5, "ABSLDTemperatures: shared_storage: .* boolean.*, got 0.5"),
        ("recipe.epochs", "many", "suite mine: recipe.epochs: .*, got 'many'"),
        ("threat.eps", 0, "suite mine: threat.eps: .*, got 0"),
    ],
)
def test_a_wrong_setting_is_one_line(key, value, message):
    with pytest.raises(InvalidInput, match=f"^{message}") as caught:
        plan(suite(), overrides={key: value})
    assert "\n" not in str(caught.value)


def test_a_setting_of_a_method_that_is_not_planned_is_refused():
    with pytest.raises(UnknownName, match=r"^unknown setting 'absld\.temperature_rate'"):
        plan(suite(), methods=["sat", "rslad"], overrides={"absld.temperature_rate": 1})


def test_runs_of_one_change_share_a_board_and_other_changes_have_another():
    """The board's name has the hash of the change: neither the methods, nor a setting left as it is, change it."""

    def change(overrides, **asked):
        specs = plan(suite(), overrides=overrides, **asked)
        assert [spec.changes is not None for spec in specs] == [spec.custom for spec in specs]
        (found,) = {spec.changes for spec in specs if spec.custom}
        return found

    wider = change({"model": "small-cnn:width=6"})
    assert wider == change({"model": "small-cnn:width=6"}, methods=["sat"], seeds=[3])
    assert wider == change({"model": "small-cnn:width=6", "threat.eps": suite().threat.eps})
    others = [{"model": "small-cnn:width=16"}, {"recipe.epochs": 3}, {"absld.temperature_rate": 0.5}]
    assert len({wider, *map(change, others)}) == 4
