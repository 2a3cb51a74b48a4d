"""Findings of the check about a step: losses, attacks, the model, the weights and the policies."""

from __future__ import annotations

import pytest
import torch
from sound import Even, Sound, failures, with_attack, with_loss

from fairbench import (
    AttackOutput,
    StepOutput,
    cross_entropy,
)

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
        failures(Lazy, of=("training",))["training"] == "no weight changes in two epochs: does step call the optimizer?"
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
