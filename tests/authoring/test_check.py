from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fairbench import (
    AttackOutput,
    ClassPolicy,
    Method,
    StepOutput,
    cross_entropy,
    frozen,
    hyper,
    register_method,
    register_policy,
    registry,
)
from fairbench.authoring.check import CHECKS, HookFinding, check_method
from fairbench.errors import UnknownName


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    torch.set_num_threads(1)
    for table in (registry.methods, registry.policies):
        for name in table.names():
            table.get(name)  # a module that is imported registers once only
        for name in ("_loaded", "_details", "_source"):
            monkeypatch.setattr(table, name, dict(getattr(table, name)))
    monkeypatch.setattr(registry, "_plugin_files", {})


class Sound(Method):
    """A method that keeps the contract; tests break one thing at a time."""

    reads = ("weight", "weight_adv", "margin", "step")

    def loss(self, model, batch, attacked):
        logits = model(attacked.x_adv)
        return StepOutput(self.mean(cross_entropy(logits, batch.y), batch.y, "weight_adv"), logits_adv=logits)


class Even(ClassPolicy):
    supplies = ("weight",)

    def setup(self, context):
        super().setup(context)
        self.weight = torch.ones(context.num_classes)

    def vectors(self):
        return {"weight": self.weight}


def failures(method: type[Method], *policies: type[ClassPolicy], of: tuple[str, ...] = ()) -> dict[str, str]:
    """Register under a throw-away name; the details of the checks that fail, by check, or only of those named."""
    register_method("under_test")(method)
    names = ["under_test"]
    for number, policy in enumerate(policies):
        register_policy(f"policy_{number}")(policy)
        names.append(f"policy_{number}")
    chosen = {title: examine for title, examine in CHECKS.items() if title in of or not of}
    with patch("fairbench.authoring.check.CHECKS", chosen):
        found = check_method("+".join(names))
    assert all(isinstance(finding, HookFinding) and "\n" not in str(finding) for finding in found)
    return {finding.check: finding.detail for finding in found if not finding.passed}


def with_loss(function: Callable[..., Any]) -> type[Method]:
    return type("WithLoss", (Sound,), {"loss": function})


def with_attack(function: Callable[..., Any]) -> type[Method]:
    return type("WithAttack", (Sound,), {"attack": function})


@pytest.mark.parametrize("name", ["sat", "trades", "rslad", "absld", "absld_released", "rslad+absld_temperatures"])
def test_the_published_methods_keep_the_contract(name):
    found = check_method(name)
    assert [str(finding) for finding in found if not finding.passed] == []
    assert len(found) == len(CHECKS) + 1


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


# One step


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (lambda loss: torch.stack([loss, loss]), "loss returned a tensor of shape (2,) where a scalar tensor is due"),
        (lambda loss: float(loss.detach()), "loss returned a float where a scalar tensor is due"),
        (lambda loss: loss.detach(), "loss returned a loss without gradient"),
        (lambda loss: loss * float("nan"), "loss returned nan in epoch 0"),
        (lambda loss: loss * 0, "the loss has no gradient with respect to any parameter"),
    ],
)
def test_losses_of_the_wrong_kind(bad, said):
    def loss(self, model, batch, attacked):
        return StepOutput(bad(Sound.loss(self, model, batch, attacked).loss))

    found = failures(with_loss(loss))
    assert list(found) == ["loss"]
    assert found["loss"].startswith(said)


def test_a_loss_that_returns_nothing():
    assert failures(with_loss(lambda *_: None)) == {"loss": "loss returned a NoneType where a StepOutput is due"}


def test_logits_of_the_wrong_shape():
    def loss(self, model, batch, attacked):
        return StepOutput(Sound.loss(self, model, batch, attacked).loss, logits_adv=model(batch.x)[:, :2])

    assert "logits_adv of shape [16, 2], not [16, 4]" in failures(with_loss(loss), of=("loss",))["loss"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x, x_adv: (x_adv + 0.3).clamp(0, 1), "attack leaves the ball: an image of class "),
        (lambda x, x_adv: x_adv - 0.1, "attack leaves the box [0,1]: pixels from -0.04"),
        (lambda x, x_adv: x_adv.double(), "attack returned x_adv as torch.float64 (16, 3, 8, 8)"),
        (lambda x, x_adv: x_adv[:3], "attack returned x_adv as torch.float32 (3, 3, 8, 8)"),
        (lambda x, x_adv: x_adv.requires_grad_(), "attack returned an x_adv that still requires a gradient"),
        (lambda x, x_adv: x_adv / 0 * 0, "attack returned pixels that are not finite"),
        (lambda x, x_adv: x.add_(0.001).clamp_(0, 1), "attack changed the clean images in place"),
    ],
)
def test_adversarial_images_of_the_wrong_kind(spoil, said):
    def attack(self, model, batch):
        return AttackOutput(spoil(batch.x, Sound.attack(self, model, batch).x_adv.clamp(0.06, 0.94)))

    found = failures(with_attack(attack))
    assert list(found) == ["attack"]
    assert found["attack"].startswith(said)


def test_a_larger_ball_is_legal_where_a_margin_says_so():
    class Wide(Even):
        supplies = ("margin",)

        def vectors(self):
            return {"margin": torch.linspace(0.5, 2.0, self.context.num_classes)}

    assert failures(Sound, Wide, of=("attack", "training", "class vectors")) == {}


# The model, the weights and the policies


def test_flags_that_the_attack_does_not_restore():
    def attack(self, model, batch):
        out = Sound.attack(self, model, batch)
        model.eval()
        return out

    assert failures(with_attack(attack), of=("model restored",))["model restored"].startswith(
        "attack does not restore model.training, 0.train"
    )

    def freeze(self, model, batch):
        model[4].bias.requires_grad_(False)
        return Sound.attack(self, model, batch)

    assert (
        "does not restore 4.bias.requires_grad"
        in failures(with_attack(freeze), of=("model restored",))["model restored"]
    )


def test_gradients_of_weights_in_the_attack():
    def attack(self, model, batch):
        x = batch.x.clone().requires_grad_()
        cross_entropy(model(x), batch.y).sum().backward()
        return AttackOutput((batch.x + 0.1 * x.grad.sign()).clamp(0, 1))

    assert (
        "attack computes gradients of the weights (0.weight)"
        in failures(with_attack(attack), of=("model restored",))["model restored"]
    )


def test_an_attack_that_moves_weights():
    def attack(self, model, batch):
        with torch.no_grad():
            model[4].bias.add_(0.01)
        return Sound.attack(self, model, batch)

    assert (
        failures(with_attack(attack), of=("model restored",))["model restored"] == "attack changes the weights 4.bias"
    )


def test_a_step_without_the_optimizer():
    class Lazy(Sound):
        def step(self, closure):
            return closure()

    assert (
        failures(Lazy, of=("training",))["training"]
        == "two epochs leave every weight as it was: does step call the optimizer?"
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (lambda ones: {"weight": ones[:-1]}, "Bad: vector 'weight' has shape [3], not [4], after setup"),
        (lambda ones: {"weight": 0 * ones}, "Bad: vector 'weight' is not positive after setup"),
        (lambda ones: {"weight": ones / 0}, "Bad: vector 'weight' is not finite after setup"),
        (
            lambda ones: {"weight": ones, "beta": ones},
            "Bad declares ['weight'], but vectors returns ['weight', 'beta']",
        ),
    ],
)
def test_vectors_of_the_wrong_kind(values, said):
    class Bad(Even):
        def vectors(self):
            return values(self.weight)

    assert failures(Sound, Bad) == {"setup": said}


@pytest.mark.parametrize(
    ("given", "fault"),
    [(torch.ones(3), "has shape [3], not [4],"), (torch.tensor([0.5, 0.5, 0.0, 0.0]), "is not positive")],
)
def test_class_probabilities_of_the_wrong_kind(given, fault):
    class Bad(Even):
        def sampling(self):
            return given

    said = f"the vector of class probabilities that sampling returns {fault} after setup"
    assert failures(Sound, Bad) == {"setup": said}


def test_hooks_that_stop_at_the_method():
    class Silent(Sound):
        def end_epoch(self, record):
            self.record_was = record.mean("ce_adv")

    said = "end_epoch does not reach the class policies: call super().end_epoch from end_epoch"
    assert failures(Silent, Even, of=("training", "composition", "resume")) == {"composition": said}

    class Alone(Sound):
        def step(self, closure):
            output = closure()
            self.context.optimizer.step()
            return output

    assert (
        "around does not reach the class policies: call super().step"
        in failures(Alone, of=("composition",))["composition"]
    )


def test_sampling_that_stops_at_the_method():
    class Alone(Sound):
        def sampling(self):
            return None

    said = "sampling does not reach the class policies: call super().sampling from sampling"
    assert failures(Alone, Even, of=("composition",)) == {"composition": said}


def test_reads_that_is_not_true():
    class Boaster(Sound):
        reads = ("weight", "beta")

    said = "reads names beta, which changes neither the attack nor the loss"
    assert failures(Boaster, of=("training", "composition")) == {"composition": said}


# State


def test_attributes_that_a_resume_loses():
    class Forgetful(Sound):
        def setup(self, context):
            super().setup(context)
            self.seen, self.scale, self.history = 0, 1.0, []

        def loss(self, model, batch, attacked):
            self.seen += 1
            out = super().loss(model, batch, attacked)
            return StepOutput(out.loss * self.scale, out.logits_adv)

        def end_epoch(self, record):
            super().end_epoch(record)
            self.scale *= 0.5
            self.history.append(record.mean("ce_adv"))

    detail = failures(Forgetful, of=("resume",))["resume"]
    assert detail.startswith(
        "a resume loses Forgetful.seen (int), Forgetful.scale (float), Forgetful.history (list): keep it in a tensor"
    )


def test_a_policy_that_keeps_its_state_in_a_list():
    class Listed(Even):
        def setup(self, context):
            super().setup(context)
            self.values = [1.0] * context.num_classes

        def end_epoch(self, record):
            self.values = (1 + record.mean("ce_adv")).tolist()

        def vectors(self):
            return {"weight": torch.tensor(self.values)}

    assert failures(Sound, Listed, of=("training", "resume")) == {
        "resume": "a resume loses Listed.values (list): "
        "keep it in a tensor attribute, or in state_dict and load_state_dict"
    }


def test_a_generator_of_its_own():
    class Dice(Sound):
        def setup(self, context):
            super().setup(context)
            self.dice = torch.Generator().manual_seed(context.seed)

        def loss(self, model, batch, attacked):
            out = super().loss(model, batch, attacked)
            return StepOutput(out.loss * (1 + torch.rand((), generator=self.dice)), out.logits_adv)

    assert failures(Dice, of=("resume",))["resume"].startswith("a resume loses Dice.dice (Generator)")


def test_a_tensor_that_state_dict_leaves_out():
    class Partial(Even):
        def end_epoch(self, record):
            self.weight = 1 + record.mean("ce_adv")

        def state_dict(self):
            return {}

    assert failures(Sound, Partial, of=("resume",))["resume"].startswith("a resume loses Partial.weight (Tensor)")


def test_state_that_each_epoch_makes_anew_is_not_lost():
    class Scheduled(Sound):
        rate: float = hyper(0.5, source="test")

        def setup(self, context):
            super().setup(context)
            self.now = None
            self.proxy = nn.Linear(1, context.num_classes)

        def begin_epoch(self, context):
            super().begin_epoch(context)
            self.now = self.rate**context.epoch

        def loss(self, model, batch, attacked):
            with torch.no_grad():
                self.proxy.bias.copy_(model[4].bias)
            out = super().loss(model, batch, attacked)
            return StepOutput(out.loss * self.now, out.logits_adv)

    assert failures(Scheduled, of=("training", "resume")) == {}


def test_randomness_without_a_seed():
    class Casino(Sound):
        def loss(self, model, batch, attacked):
            out = super().loss(model, batch, attacked)
            return StepOutput(out.loss * (0.5 + random.random()), out.logits_adv)

    found = failures(Casino, of=("determinism", "resume"))
    assert found["determinism"].startswith("two runs with one seed differ in 0.weight, ")
    assert found["resume"] == "cannot be judged, because two runs with one seed differ"


# What is exported


def test_exports_that_cannot_be_tested():
    class Dictionary(Sound):
        def export_model(self):
            return super().export_model().state_dict()

    assert (
        failures(Dictionary, of=("export_model",))["export_model"]
        == "export_model returned a OrderedDict, not a module"
    )

    class Wrapped(Sound):
        def export_model(self):
            return nn.Sequential(super().export_model())

    assert (
        "is not in both the exported and the trained model" in failures(Wrapped, of=("export_model",))["export_model"]
    )


# The host


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda x: x.sum().item(), "calls .item(), which reads a number, at test_check.py:"),
        (lambda x: bool(x.any()), "calls bool(), which reads a number, at test_check.py:"),
        (lambda x: float(x[0, 0]), "calls float(), which reads a number, at"),
        (lambda x: x.tolist(), "calls .tolist(), which copies to the host, at"),
        (lambda x: x.cpu(), "calls .cpu(), which copies to the host, at"),
        (lambda x: x.to("cpu"), "calls .to(), which copies to the host, at"),
        (lambda x: x.numpy(), "calls .numpy(), which copies to the host, at"),
        (lambda x: x[x > 0], "calls .__getitem__(), which sizes its result by the data, at"),
        (lambda x: x.sum().int().__index__(), "calls int(), which reads a number, at"),
    ],
)
def test_host_reads_are_named_with_their_hook_and_line(read, said):
    def loss(self, model, batch, attacked):
        out = Sound.loss(self, model, batch, attacked)
        read(out.logits_adv.detach())
        return out

    detail = failures(with_loss(loss), of=("host syncs",))["host syncs"]
    assert detail.startswith(f"loss {said}")
    assert detail.endswith("(2 times)")


def test_host_reads_in_attack_and_step_are_told_apart():
    class Chatty(Sound):
        def attack(self, model, batch):
            out = super().attack(model, batch)
            with frozen(model), torch.no_grad():
                model(out.x_adv).argmax(1).tolist()
            return out

        def step(self, closure):
            output = super().step(closure)
            if output.loss > 100:
                raise ArithmeticError
            return output

    attack, step = failures(Chatty, of=("host syncs",))["host syncs"].split("; ")
    assert attack.startswith("attack calls .tolist()")
    assert step.startswith("step calls bool()")


def test_one_hot_reads_a_number_only_where_it_counts_the_classes_itself():
    def loss(self, model, batch, attacked):
        F.one_hot(batch.y)
        return Sound.loss(self, model, batch, attacked)

    assert failures(with_loss(loss), of=("host syncs",))["host syncs"].startswith(
        "loss calls .one_hot(), which reads a number, at"
    )


def test_what_a_device_can_do_alone_is_no_host_read():
    def loss(self, model, batch, attacked):
        out = Sound.loss(self, model, batch, attacked)
        mask = F.one_hot(batch.y, out.logits_adv.shape[1]).bool()
        margin = out.logits_adv.masked_fill(mask, float("-inf")).amax(1).to(batch.x.device)
        return StepOutput(out.loss + 0.0 * torch.where(margin > 0, margin, 0).mean(), out.logits_adv)

    assert failures(with_loss(loss), of=("loss", "host syncs")) == {}


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
