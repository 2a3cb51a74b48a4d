"""The check of a method: its parts, and runs under changed conditions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sound import Even, Sound, failures, with_loss

from fairbench import (
    StepOutput,
    cross_entropy,
    registry,
)
from fairbench.authoring.check import HookFinding, check_method
from fairbench.authoring.checks import CHECKS
from fairbench.errors import UnknownName


def test_every_check_has_a_finding():
    assert [finding.check for finding in check_method("rslad+absld_temperatures")] == ["parts", *CHECKS]


def test_a_sound_method_and_policy_pass():
    assert failures(Sound, Even) == {}


def test_findings_read_as_one_line():
    assert str(HookFinding("loss", True, "fine")).split() == ["ok", "loss", "fine"]
    assert str(HookFinding("loss", False, "nan in epoch 1")).startswith("FAILED  loss")


def test_unknown_names_are_errors_with_a_suggestion():
    with pytest.raises(UnknownName, match=r"unknown method 'trade'; did you mean 'trades'"):
        check_method("trade")
    with pytest.raises(UnknownName, match=r"unknown class policy 'absld_temperature'; did you mean"):
        check_method("rslad+absld_temperature")


def test_checking_leaves_the_random_state_and_the_disk_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    check_method("sat")
    assert torch.equal(torch.get_rng_state(), state)
    assert list(tmp_path.iterdir()) == []


# Parts and setup


def test_a_plug_in_that_cannot_be_imported_is_a_finding(tmp_path):
    path = tmp_path / "fragile.py"
    path.write_text("from fairbench import register_method\nregister_method('fragile')\n1 / 0\n")
    registry.add_plugin(path)
    (finding,) = check_method("fragile")
    assert not finding.passed
    assert "fragile.py: ZeroDivisionError: division by zero" in finding.detail


def test_something_else_than_a_method_is_a_finding():
    assert failures(dict)["parts"] == "under_test: dict is no Method"  # type: ignore[arg-type]
    assert failures(Sound, Sound)["parts"] == "under_test+policy_0: Sound is no ClassPolicy"  # type: ignore[arg-type]


def test_a_policy_that_the_base_does_not_read():
    class Hot(Even):
        supplies = ("temperature_adv",)

    assert "does not read" in failures(Sound, Hot)["parts"]


def test_setup_that_raises_is_located():
    class Broken(Sound):
        def setup(self, context):
            raise RuntimeError("no\nluck")

    (detail,) = failures(Broken).values()
    assert detail.startswith("setup raised RuntimeError: no luck (test_check.py:")


def test_a_need_that_no_run_can_meet():
    class Needy(Sound):
        needs = ("teacher", "gold")

    assert failures(Needy, of=("setup",))["setup"].startswith("needs gold, but a run can give only teacher")


def test_a_recipe_setting_that_does_not_exist():
    class Cook(Sound):
        own_recipe = {"learning_rate": 1.0}  # noqa: RUF012

    assert failures(Cook) == {"setup": "own_recipe sets learning_rate, which no recipe has"}


def test_a_teacher_that_was_not_asked_for():
    class Student(Sound):
        def loss(self, model, batch, attacked):
            self.teacher_logits(batch.x)
            return super().loss(model, batch, attacked)

    assert "loss raised InvalidInput: method Student needs a teacher" in failures(Student, of=("loss",))["loss"]


def test_needs_are_met():
    class Needy(Sound):
        needs = ("teacher", "natural_teacher", "method_split")

        def begin_epoch(self, context):
            super().begin_epoch(context)
            for model in (context.teacher, context.natural_teacher):
                assert model(context.method_split.x).shape == (len(context.method_split.y), context.num_classes)

    assert failures(Needy, of=("setup", "training")) == {}


# Other circumstances


def test_a_class_that_is_missing_from_a_batch():
    def loss(self, model, batch, attacked):
        logits = model(attacked.x_adv)
        classes = torch.arange(logits.shape[1])
        of_class = (batch.y[:, None] == classes).float()
        means = (cross_entropy(logits, batch.y)[:, None] * of_class).sum(0) / of_class.sum(0)
        return StepOutput(self.mean(means, classes), logits_adv=logits)

    found = failures(
        type("PerClass", (Sound,), {"loss": loss, "reads": ("weight",)}), of=("training", "class missing from a batch")
    )
    assert found["class missing from a batch"] == "loss returned nan in epoch 0"
    assert "training" not in found


def test_a_fixed_number_of_classes():
    class Four(Even):
        def setup(self, context):
            super().setup(context)
            self.weight = torch.ones(4)

    found = failures(Sound, Four, of=("training", "3 classes", "100 classes"))
    assert found["3 classes"] == "Four: vector 'weight' has shape [4], not [3], after setup"
    assert found["100 classes"] == "Four: vector 'weight' has shape [4], not [100], after setup"
    assert len(found) == 2


def test_a_policy_that_fails_where_a_class_has_one_image():
    class Logarithmic(Even):
        def setup(self, context):
            super().setup(context)
            self.weight = context.class_counts.float().log()

    assert failures(Sound, Logarithmic, of=("training", "imbalanced classes")) == {
        "imbalanced classes": "Logarithmic: vector 'weight' is not positive after setup"
    }


def test_a_loss_that_does_not_bear_half_precision():
    def loss(self, model, batch, attacked):
        out = Sound.loss(self, model, batch, attacked)
        if out.logits_adv.dtype != torch.float32:
            raise TypeError("float32 only")
        return out

    detail = failures(with_loss(loss), of=("bf16 autocast",))["bf16 autocast"]
    assert detail.startswith("loss raised TypeError: float32 only")
    assert f"({Path(__file__).name}:" in detail
