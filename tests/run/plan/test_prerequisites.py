"""Teachers and warm starts of a plan, as runs and as checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from planned import read_once, suite

from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.models import build_model, save_checkpoint
from fairbench.run.plan import plan


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


def test_a_method_without_its_teacher_is_refused():
    with pytest.raises(InvalidInput, match=r"^method rslad needs a teacher, which mine does not name$"):
        plan(suite(teacher=None), methods=["sat", "rslad"])
    assert len(plan(suite(teacher=None), methods=["sat"])) == 1


def _weights(path, seed, classes=10):
    torch.manual_seed(seed)
    name = "small-cnn:width=2"
    save_checkpoint(path, build_model(name, num_classes=classes, shape=(1, 8, 8)), name, classes, (1, 8, 8))


def test_a_checkpoint_as_teacher_is_identified_by_its_content_and_evaluated_once(tmp_path):
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


def test_a_checkpoint_that_cannot_teach_on_the_dataset_is_refused(tmp_path):
    with pytest.raises(Missing, match=r"^suite mine: teacher absent\.safetensors: no such file$"):
        plan(suite(teacher={"checkpoint": "absent.safetensors"}), methods=["rslad"])
    path = tmp_path / "three.safetensors"
    _weights(path, 0, classes=3)
    with pytest.raises(InvalidInput, match=r"three\.safetensors: made for 3 classes .* but digits has 10"):
        plan(suite(teacher={"checkpoint": str(path)}), methods=["rslad"])
    name, classes = "small-cnn:width=2", read_once("digits").class_names[::-1]
    model = build_model(name, num_classes=10, shape=(1, 8, 8))
    save_checkpoint(path, model, name, 10, (1, 8, 8), class_names=classes)
    with pytest.raises(InvalidInput, match=r"three\.safetensors: its classes are in the order '9', '8', .* '0', '1', "):
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
def test_a_plugin_gets_the_models_it_needs_and_its_own_recipe():
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
