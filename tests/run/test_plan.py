from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from fairbench import registry
from fairbench.data import load_dataset
from fairbench.errors import CorruptFile, FairbenchError, InvalidInput, Missing, UnknownName
from fairbench.method.composition import build_method, resolve_method
from fairbench.models import build_model, save_checkpoint
from fairbench.run.plan import plan
from fairbench.suites.spec import Environment, Recipe, RunSpec
from fairbench.suites.suite import Suite, load_suite

PLUGIN = """
from typing import ClassVar
from fairbench import ClassPolicy, Method, hyper, register_method, register_policy

@register_method("tuned", summary="needs more than the suite gives")
class Tuned(Method):
    own_recipe: ClassVar = {"epochs": 0.25, "lr": 0.01}
    needs: ClassVar = ("warm_start", "natural_teacher", "method_split")
    reads: ClassVar = ("weight",)
    rate: float = hyper(0.5, source="own")

@register_method("greedy", summary="asks for a setting that no recipe has")
class Greedy(Method):
    own_recipe: ClassVar = {"epoch": 3}

@register_policy("weigher", summary="steers by weights")
class Weigher(ClassPolicy):
    own_recipe: ClassVar = {"batch_size": 7}
    supplies: ClassVar = ("weight",)
    rate: float = hyper(1.0, source="own")
    strength: float = hyper(2.0, source="own")

register_method("weighed", base="tuned", policies=["weigher"], options={"strength": 3.0, "tuned.rate": 0.75})
register_method("misspelt", base="tuned", policies=["weigher"], options={"wiegher.strength": 3.0})
register_method("tower", base="weighed")
"""


read_once = cache(load_dataset)


@pytest.fixture(autouse=True)
def _quick_data(monkeypatch):
    monkeypatch.setattr("fairbench.run.plan.load_dataset", read_once)


@pytest.fixture
def _plugins(tmp_path, monkeypatch):
    for known in (registry.methods, registry.policies):
        for name in known.names():
            known.get(name)
        for part in ("_loaded", "_details", "_source"):
            monkeypatch.setattr(known, part, dict(getattr(known, part)))
    monkeypatch.setattr(registry, "_plugin_files", {})
    (tmp_path / "mine.py").write_text(PLUGIN)
    registry.add_plugin(tmp_path / "mine.py")


def suite(**settings) -> Suite:
    tree = {
        "name": "mine",
        "data": {"name": "digits"},
        "model": "small-cnn:width=4",
        "teacher": {"method": "trades", "model": "small-cnn:width=8", "recipe": {"epochs": 5}},
        "methods": ["sat", "trades", "rslad", "absld"],
        "recipe": {"epochs": 20},
    }
    return Suite.model_validate({**tree, **settings})


def students(runs: list[RunSpec]) -> dict[str, RunSpec]:
    return {spec.label: spec for spec in runs if spec.role == "student"}


# ---------------------------------------------------------------- order


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


def test_a_teacher_has_the_defaults_for_the_number_of_classes(monkeypatch):
    """DAFA's lambda is 1.5 above ten classes, whether it trains a student or a teacher."""
    many = replace(read_once("digits"), class_names=tuple(map(str, range(11))))
    taught = suite(teacher={"method": "dafa"}, methods=["absld", "dafa"])
    for dataset, lam in ((read_once("digits"), 1.0), (many, 1.5)):
        monkeypatch.setattr("fairbench.run.plan.load_dataset", lambda *_, found=dataset, **__: found)
        runs = {spec.label: spec for spec in plan(taught)}
        assert runs["teacher"].method.options["dafa_weights"]["lam"] == lam
        assert runs["dafa"].method.options["dafa_weights"]["lam"] == lam
        assert runs["absld"].teacher == runs["teacher"]


def test_a_teacher_that_nobody_learns_from_is_not_trained():
    assert [spec.label for spec in plan(suite(), methods=["trades", "sat"])] == ["trades", "sat"]


def test_names_and_seeds_count_once():
    runs = plan(suite(), methods=["sat", "trades", "sat"], seeds=[1, 1, 0])
    assert [(spec.label, spec.seed) for spec in runs] == [("sat", 1), ("sat", 0), ("trades", 1), ("trades", 0)]


def test_the_suite_says_what_is_not_asked_for():
    runs = plan(suite(seeds=[7], methods=["sat"]))
    assert [(spec.label, spec.seed) for spec in runs] == [("sat", 7)]


def test_planning_twice_gives_the_same():
    environment = Environment(torch="2.9", threads=2)
    one, other = (plan(suite(), environment=environment, plugins=["a"], command="c") for _ in range(2))
    assert one == other
    assert {(spec.environment, spec.plugins, spec.command) for spec in one} == {(environment, ("a",), "c")}
    assert len({spec.data_hash for spec in one}) == 1
    assert {spec.protocol for spec in one} == {suite().protocol(one[0].data_hash)}


def test_a_method_without_its_teacher_is_refused():
    with pytest.raises(InvalidInput, match=r"^method rslad needs a teacher, which mine does not name$"):
        plan(suite(teacher=None), methods=["sat", "rslad"])
    assert len(plan(suite(teacher=None), methods=["sat"])) == 1


def _weights(path, seed, classes=10):
    torch.manual_seed(seed)
    name = "small-cnn:width=2"
    save_checkpoint(path, build_model(name, num_classes=classes, shape=(1, 8, 8)), name, classes, (1, 8, 8))


def test_a_teacher_that_is_a_file_is_known_by_its_content_and_evaluated_once(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        _weights(tmp_path / f"{name}.safetensors", seed)
    ids = []
    for text in ("file:{}/a.safetensors", "{}/b.safetensors", "{}/c.safetensors"):
        chosen = suite(teacher={"checkpoint": text.format(tmp_path)})
        teacher, *students = plan(chosen, methods=["rslad", "ard"])
        assert [spec.method.name for spec in students] == ["rslad", "ard"]
        for spec in students:
            assert spec.teacher.startswith(f"file:{tmp_path}/")
            assert spec.checkpoint is None
        assert teacher.checkpoint == students[0].teacher
        assert (teacher.label, teacher.model) == ("teacher", "small-cnn:width=2")
        assert (teacher.protocol, teacher.evaluation.best) == (students[0].protocol, students[0].evaluation.best)
        assert (teacher.evaluation.last, teacher.prerequisites) == ((), [])
        ids.append((teacher.run_id, students[0].run_id))
    assert ids[0] == ids[1]
    assert not set(ids[1]) & set(ids[2])
    longer = suite(teacher={"checkpoint": f"{tmp_path}/a.safetensors"}, recipe={"epochs": 7})
    assert plan(longer, methods=["rslad"])[0].run_id == ids[0][0]  # no training, so its recipe does not matter


def test_a_teacher_that_is_no_file_for_these_data_is_refused(tmp_path):
    with pytest.raises(Missing, match=r"^suite mine: teacher absent\.safetensors: no such file$"):
        plan(suite(teacher={"checkpoint": "absent.safetensors"}), methods=["rslad"])
    path = tmp_path / "three.safetensors"
    _weights(path, 0, classes=3)
    with pytest.raises(InvalidInput, match=r"three\.safetensors: made for 3 classes .* but digits has 10"):
        plan(suite(teacher={"checkpoint": str(path)}), methods=["rslad"])
    path.write_bytes(b"weights")
    with pytest.raises(CorruptFile, match="not a readable safetensors file"):
        plan(suite(teacher={"checkpoint": str(path)}), methods=["rslad"])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"epochs": 0}, "^recipe of suite mine's teacher: epochs: .*, got 0$"),
        ({"epoch": 3}, r"^unknown recipe setting of suite mine's teacher 'epoch'; did you mean 'epochs'\?$"),
    ],
)
def test_a_teacher_with_a_wrong_recipe_is_one_line(recipe, message):
    with pytest.raises(InvalidInput, match=message):
        plan(suite(teacher={"recipe": recipe}), methods=["rslad"])


@pytest.mark.usefixtures("_plugins")
def test_a_plugins_needs_and_recipe():
    with pytest.raises(InvalidInput, match="needs a natural teacher, which mine does not name"):
        plan(suite(), methods=["tuned"])
    whole = suite(natural_teacher={"method": "sat"}, warm_start={"method": "trades", "recipe": {"epochs": 9}})
    natural, warm, tuned, weighed = plan(whole, methods=["tuned", "weighed"])
    assert [spec.label for spec in (natural, warm)] == ["natural-teacher", "warm-start"]
    assert (tuned.natural_teacher, tuned.warm_start, tuned.teacher) == (natural, warm, None)
    assert [spec.selection.rule for spec in (natural, warm, tuned)] == ["last", "validation", "validation"]
    assert natural.protocol == warm.protocol
    assert (warm.recipe.epochs, tuned.recipe.epochs, tuned.recipe.lr, tuned.recipe.batch_size) == (9, 2, 0.01, 128)
    assert (weighed.recipe.epochs, weighed.recipe.batch_size) == (2, 7)
    assert not tuned.custom
    with pytest.raises(UnknownName, match=r"^unknown recipe setting of Greedy 'epoch'; did you mean 'epochs'\?$"):
        plan(whole, methods=["greedy"])


# ---------------------------------------------------------------- methods


def test_a_named_composition_resolves_to_its_parts():
    absld, released = resolve_method("absld"), resolve_method("absld_released")
    assert (absld.base, absld.policies, absld.provenance, absld.source_hash) == (
        "rslad",
        ("absld_temperatures",),
        "paper",
        "",
    )
    assert absld.options["rslad"] == {"kl_scale": 0.1, "clean_share": 1 / 6}
    assert absld.options["absld_temperatures"]["shared_storage"] is False
    assert released.options["absld_temperatures"]["shared_storage"] is True
    method = build_method(released)
    assert [type(part).__name__ for part in (method, *method.policies)] == ["RSLAD", "ABSLDTemperatures"]
    assert method.policies[0].shared_storage is True
    assert method.required == {"teacher"}


def test_a_composition_in_place_has_the_same_parts_under_its_own_name():
    composed, absld = resolve_method("rslad+absld_temperatures"), resolve_method("absld")
    assert (composed.name, composed.provenance) == ("rslad+absld_temperatures", "composition")
    assert (composed.base, composed.policies, composed.options) == (absld.base, absld.policies, absld.options)


@pytest.mark.parametrize("base", ["sat", "trades"])
def test_a_policy_that_steers_what_the_base_does_not_read_is_refused(base):
    message = f"^{base}[+]absld_temperatures: .* steers by temperature_adv, temperature_clean, which .* does not read"
    with pytest.raises(InvalidInput, match=message):
        plan(suite(), methods=["rslad", f"{base}+absld_temperatures"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absdl", r"unknown method 'absdl'; did you mean 'absld'\?"),
        ("rslad+absld_temperature", r"unknown class policy '.*'; did you mean 'absld_temperatures'\?"),
        ("rslad+", "unknown class policy ''"),
        ("", "unknown method ''"),
        ("absld_temperatures", "unknown method 'absld_temperatures'; did you mean"),
        ("absld+absld_temperatures", "absld[+]absld_temperatures: absld_temperatures is in it twice"),
    ],
)
def test_a_wrong_method_is_one_line(name, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        plan(suite(), methods=[name])


@pytest.mark.usefixtures("_plugins")
def test_a_plugins_compositions(tmp_path):
    weighed = resolve_method("weighed")
    assert weighed.options == {"tuned": {"rate": 0.75}, "weigher": {"rate": 1.0, "strength": 3.0}}
    assert len(weighed.source_hash) == 12
    with pytest.raises(UnknownName, match=r"unknown option of misspelt 'wiegher.strength'; did you mean 'weigher.str"):
        resolve_method("misspelt")
    with pytest.raises(InvalidInput, match=r"^tower: None is no Method$"):
        resolve_method("tower")


@pytest.mark.usefixtures("_plugins")
def test_the_source_of_a_plugin_counts_that_of_the_package_does_not(tmp_path):
    before = resolve_method("tuned").source_hash
    (tmp_path / "mine.py").write_text(PLUGIN + "\n# a new version\n")
    assert resolve_method("tuned").source_hash != before
    assert resolve_method("sat").source_hash == ""


# ---------------------------------------------------------------- settings


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


def test_a_method_can_set_what_its_base_has():
    found = students(plan(suite(), overrides={"absld.kl_scale": 0.5}))
    assert found["absld"].method.options["rslad"]["kl_scale"] == 0.5
    assert found["rslad"].method.options["rslad"]["kl_scale"] == 0.1


def test_a_composition_in_place_can_be_set_by_its_whole_name():
    name = "rslad+absld_temperatures"
    (spec,) = students(plan(suite(), methods=[name], overrides={f"{name}.temperature_rate": 0})).values()
    assert (spec.custom, spec.method.options["absld_temperatures"]["temperature_rate"]) == (True, 0.0)


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


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"evaluation": {"best": ["clean", "pgd20"]}}, r"unknown attack 'pgd20'"),
        ({"evaluation": {"last": ["pgd-20:stp=1"]}}, "'stp'; did you mean 'step'"),
        ({"selection": {"attack": "pgd-2:rel_step=0.1"}}, "less than 1.5 eps"),
        ({"data": {"name": "digit"}}, r"unknown dataset 'digit'; did you mean 'digits'\?"),
    ],
)
def test_what_only_evaluation_would_notice_is_noticed_before_the_training(changed, message):
    with pytest.raises(FairbenchError, match=message):
        plan(suite(**changed))


def test_runs_live_in_folders_of_their_own():
    folders = [spec.folder for spec in plan(suite(), seeds=[0, 1])]
    assert len(set(folders)) == len(folders) == 9
    assert {folder.parts[0] for folder in folders} == {"mine"}
    assert folders[0] == Path("mine") / "teacher" / plan(suite())[0].run_id


def test_an_architecture_that_does_not_exist_stops_before_anything_is_trained():
    with pytest.raises(UnknownName, match="did you mean 'small-cnn'"):
        plan(suite(model="smal-cnn"))


def test_all_stands_for_every_method_but_ablations_reconstructions_last():
    names = [
        spec.method.name for spec in plan(load_suite("digits"), methods=["all"], seeds=[0]) if spec.role == "student"
    ]
    assert names[:4] == ["sat", "trades", "rslad", "absld"]
    kinds = {name: registry.methods.details(name).get("provenance") for name in registry.methods.names()}
    assert set(names) == {name for name in kinds if kinds[name] != "ablation"}
    assert "ablation" in kinds.values()
    unsure = [kinds[name] == "reconstruction" for name in names]
    assert unsure == sorted(unsure)


def test_a_budget_in_grey_levels_is_refused_before_the_training():
    suite = load_suite("digits").override({"threat.norm": "L2", "threat.eps": 128})
    with pytest.raises(InvalidInput, match="eps 128 in L2 reaches beyond every image"):
        plan(suite)
