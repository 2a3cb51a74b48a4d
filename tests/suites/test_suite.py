from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

import fairbench
from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.models import opening
from fairbench.plugins.calls import MODEL_SOURCES
from fairbench.suites.models import TeacherSpec
from fairbench.suites.suite import Suite, load_suite, suite_paths

MINIMAL = {"data": {"name": "digits"}, "model": "small-cnn", "methods": ["sat"]}


def suite(**settings) -> Suite:
    return Suite.model_validate({"name": "mine", **MINIMAL, **settings})


def opened(folder: Path, text: str) -> Suite:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_suite(str(path))


# ---------------------------------------------------------------- suites as files


def test_the_built_in_suites_open_under_their_names():
    paths = suite_paths()
    assert {"digits", "cifar10-micro"} <= set(paths)
    for name in paths:
        found = load_suite(name)
        assert found.name == name
        assert found.summary
        assert found.as_quick().name == f"{name}-quick"


def test_a_minimal_suite_has_the_defaults(tmp_path):
    found = opened(tmp_path, yaml.safe_dump(MINIMAL))
    assert found == suite()
    assert (found.version, found.seeds, found.threat.eps, found.recipe.milestones) == (1, (0,), 8 / 255, (0.5, 0.75))


def test_numbers_as_people_write_them(tmp_path):
    text = yaml.safe_dump(MINIMAL) + (
        "threat: {eps: 8/255}\nrecipe: {lr: 1e-2, weight_decay: 2/10000, milestones: [2/3, 0.75], epochs: 10.0}\n"
    )
    found = opened(tmp_path, text)
    assert (found.threat.eps, found.recipe.lr, found.recipe.weight_decay) == (8 / 255, 0.01, 0.0002)
    assert found.recipe.milestones == (2 / 3, 0.75)
    assert found.recipe.epochs == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: {epochs: 0}", "recipe.epochs: input should be greater than or equal to 1, got 0"),
        ("recipe: {epochs: 1.5}", "recipe.epochs: input should be a valid integer"),
        ("recipe: {epochs: true}", "recipe.epochs: value error, expected a number, got True"),
        ("recipe: {lr: true}", "recipe.lr: value error, expected a number, got True"),
        ("recipe: {lr: .nan}", "recipe.lr: input should be a finite number, got nan"),
        ("recipe: {lr: .inf}", "recipe.lr: input should be a finite number, got inf"),
        ("recipe: {lr: 1e999999999}", "recipe.lr: input should be a finite number"),
        ("recipe: {lr: fast}", "recipe.lr: input should be a valid number.*, got 'fast'"),
        ("recipe: {momentum: 1}", "recipe.momentum: input should be less than 1, got 1"),
        ("recipe: {milestones: [0.5, 1.5]}", r"recipe.milestones.1: input should be less than or equal to 1, got 1\.5"),
        ("recipe: {schedule: cosine}", "recipe.schedule: input should be 'multistep', .* got 'cosine'"),
        ("recipe: {epoch: 3}", "unknown setting 'recipe.epoch'; did you mean 'recipe.epochs'"),
        ("seads: [3]", "unknown setting 'seads'; did you mean 'seeds'"),
        ("recipe: 3", "recipe: input should be .*, got 3"),
        ("threat: {eps: 0}", "threat.eps: input should be greater than 0, got 0"),
        ("threat: {eps: 1/0}", "threat.eps: input should be a valid number.*, got '1/0'"),
        ("threat: {eps: " + "9" * 400 + "/1}", "threat.eps: input should be a valid number"),
        ("threat: {norm: L1}", "threat.norm: input should be 'Linf' or 'L2', got 'L1'"),
        ("evaluation: {best: clean}", "evaluation.best: input should be a valid tuple, got 'clean'"),
        ("data: {name: digits, validation_per_class: 0}", "data.validation_per_class: .* got 0"),
        ("data: {validation_per_class: 1}", "data.name: field required$"),
        ("methods: &a [*a]", "unfolds to more than the 100000 values allowed$"),
        ("seeds: [0, one]", r"seeds\.1: input should be a valid integer.*, got 'one'"),
        ("seeds: [-1]", r"seeds\.0: input should be greater than or equal to 0, got -1"),
        ("seeds: [9223372036854775808]", r"seeds\.0: input should be less than or equal to 9223372036854775807, got"),
        ("seeds: [true]", r"seeds\.0: value error, expected a number, got True"),
        ("recipe: {milestones: [yes]}", r"recipe\.milestones\.0: value error, expected a number, got True"),
        ("tuning: {lr: [0.1, no]}", r"tuning\.lr\.1: value error, expected a number, got False"),
        ("tuning: {lr: [0]}", r"tuning\.lr\.0: input should be greater than 0, got 0"),
        ("tuning: {lr: [.inf]}", r"tuning\.lr\.0: input should be a finite number, got inf"),
        ("data: {name: digits, test_per_class: yes}", "data.test_per_class: value error, expected a number, got True"),
        ("checkpoints: [{name: a, mean: [yes, 0, 0]}]", r"checkpoints\.0\.mean\.0: .* expected a number, got True"),
        ("seeds: []", "seeds: tuple should have at least 1 item"),
        ("tuning: {seeds: [-1]}", r"tuning\.seeds\.0: input should be greater than"),
        ("teacher: {seed: -1}", r"teacher\.seed: input should be greater than"),
        ("data: {name: digits, split_seed: -1}", r"data\.split_seed: input should be greater than"),
        ("1: 2", "1: "),
        ("name: ../evil", "name: string should match pattern .*, got '../evil'"),
        ("name: 2026-01-01", "name: input should be a valid string"),
    ],
)
def test_a_wrong_value_is_one_line_with_the_file_and_the_place(tmp_path, text, message):
    rest = {key: value for key, value in MINIMAL.items() if key != text.partition(":")[0]}
    with pytest.raises(InvalidInput, match=rf"^suite .*mine\.yaml: {message}") as caught:
        opened(tmp_path, f"{text}\n{yaml.safe_dump(rest)}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("number", ["010", "-0_17", "1:30", "1:30.5", "!!int '012'"])
def test_a_number_that_yaml_does_not_read_as_it_looks_is_refused(tmp_path, number):
    with pytest.raises(CorruptFile, match=r"^suite .*mine\.yaml: .* is no decimal number, and as text needs quotes"):
        opened(tmp_path, f"recipe: {{epochs: {number}}}\n{yaml.safe_dump(MINIMAL)}")


@pytest.mark.parametrize(
    ("number", "value"), [("0", 0), ("0.5", 0.5), ("00.5", 0.5), ("0x10", 16), ("1_000", 1000), ("'010'", 10)]
)
def test_a_number_that_yaml_reads_as_it_looks(tmp_path, number, value):
    assert (
        opened(tmp_path, f"recipe: {{weight_decay: {number}}}\n{yaml.safe_dump(MINIMAL)}").recipe.weight_decay == value
    )


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "3", "a: [1", "a: b: c", "\t", "!!python/object:os.system {}"])
def test_what_is_no_suite_is_a_corrupt_file(tmp_path, text):
    with pytest.raises(CorruptFile, match=r"^suite .*mine\.yaml: ") as caught:
        opened(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_bytes_and_depth_that_yaml_cannot_read(tmp_path):
    path = tmp_path / "mine.yaml"
    for content in (b"\xff\xfe\x00a", b"[" * 1_000):
        path.write_bytes(content)
        with pytest.raises(CorruptFile, match=r"mine.yaml"):
            load_suite(str(path))


def test_a_file_that_is_not_there_and_a_name_that_is_near_another(tmp_path):
    with pytest.raises(Missing, match=r"^suite no/such\.yaml: no such file$"):
        load_suite("no/such.yaml")
    with pytest.raises(Missing):
        load_suite(f"{tmp_path}/folder.yaml/..yaml")
    with pytest.raises(UnknownName, match=r"^unknown suite 'digit'; did you mean 'digits'\?$"):
        load_suite("digit")


def test_suites_of_the_working_directory_have_names(tmp_path, monkeypatch):
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "own.yaml").write_text(yaml.safe_dump(MINIMAL))
    assert "own" not in suite_paths()
    monkeypatch.chdir(tmp_path)
    assert load_suite("own") == suite(name="own")


# ---------------------------------------------------------------- overrides


def test_an_override_sets_one_thing():
    changed = suite().override({"recipe.epochs": 3, "threat.eps": "1/4", "seeds": [1, 2], "data.test_per_class": 5})
    assert (changed.recipe.epochs, changed.threat.eps, changed.seeds) == (3, 0.25, (1, 2))
    assert changed.data.test_per_class == 5
    assert changed.recipe.lr == suite().recipe.lr
    assert suite().override({}) == suite()
    listed = suite().override({"evaluation.best": "clean,pgd-20:step=0.01,iterate=last", "recipe.milestones": 0.25})
    assert listed.evaluation.best == ("clean", "pgd-20:step=0.01,iterate=last")
    assert listed.recipe.milestones == (0.25,)
    assert suite().override({"recipe.epochs": 30, "threat.eps": 8 / 255}) == suite()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("recipe.epoch", r"unknown suite setting 'recipe\.epoch'; did you mean 'recipe\.epochs'\?"),
        ("recipe.epochs.x", r"unknown suite setting 'recipe\.epochs\.x'; did you mean 'recipe\.epochs'\?"),
        ("recip.epochs", r"unknown suite setting 'recip'; did you mean 'recipe'\?"),
        ("model.width", r"unknown suite setting 'model\.width'; none are known"),
        ("teacher.method", r"unknown suite setting 'teacher\.method'; none are known"),
        ("", "unknown suite setting ''; known: checkpoints, data, "),
    ],
)
def test_a_wrong_key_suggests_the_nearest(key, message):
    with pytest.raises(UnknownName, match=f"^{message}"):
        suite().override({key: 3})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("recipe.epochs", "many", "suite mine: recipe.epochs: input should be a valid integer.*, got 'many'"),
        ("recipe.epochs", True, "suite mine: recipe.epochs: value error, expected a number, got True"),
        ("recipe.", 3, "suite mine: recipe: input should be .*, got 3"),
        ("seeds", 3, "suite mine: seeds: input should be a valid tuple, got 3"),
        ("name", "../up", "suite mine: name: string should match"),
    ],
)
def test_a_wrong_value_names_the_setting(key, value, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        suite().override({key: value})


def test_the_quick_variant_is_a_suite_and_a_protocol_of_its_own():
    whole = suite(quick={"recipe.epochs": 1, "evaluation.best": ["clean"]}, teacher=TeacherSpec(method="trades"))
    quick = whole.as_quick()
    assert (quick.name, quick.is_quick) == ("mine-quick", True)
    assert (quick.recipe.epochs, quick.evaluation.best) == (1, ("clean",))
    assert (quick.quick, quick.teacher, quick.methods) == ({}, whole.teacher, whole.methods)
    assert not whole.is_quick
    assert suite().as_quick().protocol("hash") != suite().protocol("hash")


def test_a_quick_variant_with_a_wrong_key_says_so():
    with pytest.raises(UnknownName, match=r"'recipe\.epoch'; did you mean 'recipe\.epochs'\?$"):
        suite(quick={"recipe.epoch": 1}).as_quick()


def test_suites_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        suite().version = 2


# ---------------------------------------------------------------- protocol


@pytest.mark.parametrize(
    "changed",
    [
        {"threat": {"eps": 0.1}},
        {"threat": {"norm": "L2"}},
        {"data": {"name": "digits", "validation_per_class": 5}},
        {"data": {"name": "digits", "method_per_class": 5}},
        {"data": {"name": "digits", "split_seed": 1}},
        {"data": {"name": "digits", "test_per_class": 5}},
        {"selection": {"rule": "test"}},
        {"selection": {"attack": "pgd-20"}},
        {"selection": {"every": 2}},
        {"evaluation": {"best": ["clean"]}},
        {"evaluation": {"last": ["clean"]}},
        {"evaluation": {"batch_size": 10}},
        {"evaluation": {"seed": 1}},
        {"evaluation": {"best": ["fgsm", "clean"], "last": ["clean"]}},
        {"is_quick": True},
    ],
)
def test_a_protocol_changes_with_what_evaluation_depends_on(changed):
    assert suite(**changed).protocol("hash") != suite().protocol("hash")


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"version": 2},
        {"summary": "other words"},
        {"data": {"name": "npz:elsewhere/a.npz,b.npz"}},
        {"model": "resnet18"},
        {"methods": ["trades"]},
        {"seeds": [0, 1]},
        {"recipe": {"epochs": 3}},
        {"teacher": {"method": "sat"}},
        {"warm_start": {"method": "sat"}},
        {"quick": {"recipe.epochs": 1}},
        {"threat": {"eps": "8/255"}},
    ],
)
def test_a_protocol_does_not_change_with_anything_else(changed):
    assert suite(**changed) != suite() or "threat" in changed
    assert suite(**changed).protocol("hash") == suite().protocol("hash")


def test_a_protocol_changes_with_the_content_of_the_data():
    assert suite().protocol("one hash") != suite().protocol("another hash")


EVIL = """
import re
from pathlib import Path
Path("ran").touch()
def build(num_classes, shape): ...
def loss(logits, y): ...
"""
CODE = {
    "model": {"model": "evil:build"},
    "standard library": {"model": "os:abort"},
    "teacher": {"teacher": {"method": "sat", "model": "evil:build"}},
    "natural teacher": {"natural_teacher": {"model": "evil:build"}},
    "warm start": {"warm_start": {"model": "evil:build"}},
    "loss": {"evaluation": {"best": ["pgd-5:rel_step=0.5,loss=evil:loss"]}},
    "loss of last": {"evaluation": {"last": ["pgd-5: loss = evil:loss,rel_step=0.5"]}},
    "loss of selection": {"selection": {"attack": "pgd-5:rel_step=0.5,loss=evil:loss"}},
    "loss named as a zoo": {"selection": {"attack": "pgd-5:rel_step=0.5,loss=timm:loss"}},
    "loss of a deeper name": {"selection": {"attack": "pgd-5:rel_step=0.5,loss=evil:loss:x"}},
    "surrogate": {"evaluation": {"best": ["transfer-5:surrogate=evil:build"]}},
    "quick model": {"quick": {"model": "evil:build"}},
    "quick loss": {"quick": {"evaluation.best": ["pgd-5:rel_step=0.5,loss=evil:loss"]}},
}


@pytest.mark.parametrize("changes", CODE.values(), ids=CODE)
def test_a_suite_that_names_code_is_refused_before_anything_is_imported(make_suite, tmp_path, monkeypatch, changes):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    suite = make_suite(tmp_path / "suite", **changes)
    with pytest.raises(InvalidInput, match=r"names code to import.* --plugin .* --set"):
        load_suite(str(suite))
    assert not (tmp_path / "ran").exists()


def test_a_suite_may_name_what_looks_like_code_and_is_a_file_or_a_zoo(make_suite, tmp_path):
    changes = {
        "teacher": {"checkpoint": "file:teacher"},
        "summary": "os:abort",
        "evaluation": {"best": ["transfer-5:surrogate=torchvision:resnet18", "transfer-5:surrogate=file:x"]},
    }
    assert load_suite(str(make_suite(tmp_path / "suite", **changes))).teacher.checkpoint == "file:teacher"


def test_every_source_of_models_but_modules_is_one_that_suites_may_name():
    assert [source.partition(":")[0] for source in opening.SOURCES] == [*MODEL_SOURCES, "module"]


def test_a_suite_in_the_working_directory_does_not_replace_a_built_in_one(make_suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = make_suite(tmp_path / "made")
    (tmp_path / "suites").mkdir()
    path.rename(tmp_path / "suites" / "digits.yaml")
    for look_up in (suite_paths, lambda: load_suite("digits"), lambda: load_suite("other")):
        with pytest.raises(InvalidInput, match=r"suite 'digits' is there twice: in .*/digits\.yaml and in suites/"):
            look_up()
    assert load_suite("suites/digits.yaml").name == "tiny"
    monkeypatch.chdir(Path(fairbench.__file__).parent)  # where ./suites are the built-in ones
    assert "digits" in suite_paths()


# ---------------------------------------------------------------- keys given twice


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("seeds: [0]\nmodel: small-cnn\nseeds: [1]\n", "seeds"),
        ("threat: {eps: 1/255, norm: Linf, eps: 8/255}\n", "eps"),
        ("recipe:\n  epochs: 1\n  'epochs': 2\n", "epochs"),
        ('recipe:\n  lr: 1\n  "lr": 2\n', "lr"),
        ("evaluation: {best: [{a: 1, a: 2}]}\n", "a"),
        ("teacher: {recipe: {lr: 0.1, lr: 0.2}}\n", "lr"),
        ("quick: {threat.eps: 1, threat.eps: 2}\n", "threat.eps"),
        ("x: &x {lr: 1}\nrecipe: {<<: *x, lr: 2, lr: 3}\n", "lr"),
        ("x: &x {lr: 1}\ny: &y {lr: 2}\nrecipe:\n  <<: *x\n  <<: *y\n", "<<"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path, text, key):
    with pytest.raises(CorruptFile, match=rf"mine\.yaml: .*the key '{re.escape(key)}' is given twice.*line \d+"):
        opened(tmp_path, text)


def test_a_merge_may_be_overridden(tmp_path):
    text = yaml.safe_dump(MINIMAL) + "recipe: {<<: [&a {lr: 0.3, epochs: 4}, {lr: 0.5, batch_size: 8}], lr: 0.2}\n"
    found = opened(tmp_path, text).recipe
    assert (found.lr, found.epochs, found.batch_size) == (0.2, 4, 8)


# ---------------------------------------------------------------- budgets in grey levels


@pytest.mark.parametrize("eps", ["8", "1.0001", "255"])
def test_a_budget_above_the_range_of_pixels_is_refused(tmp_path, eps):
    text = yaml.safe_dump(MINIMAL) + f"threat: {{eps: {eps}}}\n"
    with pytest.raises(InvalidInput, match=rf"threat\.eps is in pixel units of \[0,1\]; {eps}/255 may be meant"):
        opened(tmp_path, text)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 1.0), ("L2", 1.5), ("L2", 8.0)])
def test_a_budget_that_images_have_room_for_is_allowed(norm, eps):
    assert suite(threat={"norm": norm, "eps": eps}).threat.eps == eps  # digits: 64 pixels, 8 across in L2
