"""The attack of a method, its hooks, and the state around them."""

from __future__ import annotations

import pytest
import torch
from plain_method import CPU, Plain, batch, context, net, policy, ready
from torch import nn

from fairbench.attacks import ImageRNG
from fairbench.data.batch import Batch
from fairbench.errors import InvalidInput
from fairbench.losses import cross_entropy
from fairbench.method.method import Method
from fairbench.method.policy import ClassPolicy
from fairbench.method.record import AttackOutput, ClassRecord, StepOutput
from fairbench.method.tunable import hyper
from fairbench.suites.sections import Recipe, ThreatSection

# ---------------------------------------------------------------- the attack


def test_each_sample_stays_in_the_ball_of_its_class():
    method = ready(policy(margin=[1.0, 0.0, 2.0], step=[1.0, 1.0, 4.0]))
    attacked, given_ = method.attack(method.context.model, batch()), batch()
    moved = (attacked.x_adv - given_.x).abs().amax(dim=(1, 2, 3))
    assert attacked.x_adv.min() >= 0
    assert attacked.x_adv.max() <= 1
    limit = torch.tensor([0.1, 0.0, 0.2])[given_.y]
    assert (moved <= limit + 1e-6).all()
    assert (moved[given_.y == 2] > 0.1 + 1e-6).all()
    assert (moved[given_.y == 0] > 0.09).all()


def test_the_attack_raises_the_loss_and_counts_survived_steps():
    method = ready()
    model, drawn = method.context.model, batch()
    attacked = method.attack(model, drawn)
    model.eval()
    assert cross_entropy(model(attacked.x_adv), drawn.y).mean() > cross_entropy(model(drawn.x), drawn.y).mean()
    assert attacked.survived.shape == (12,)
    assert 0 <= attacked.survived.min() <= attacked.survived.max() <= 5


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_attack_leaves_parameters_modes_and_gradients_as_they_were(mode):
    method = ready()
    method.attack_mode = mode
    model = method.context.model.train()
    model[1].eval()
    running = model[1].running_mean.clone()
    method.attack(model, batch())
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(model[1].running_mean, running) == (mode == "eval")


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_the_noise_belongs_to_the_image_the_seed_and_the_epoch(kind):
    def start(seed: int = 0, epoch: int = 0, order: list[int] | None = None) -> torch.Tensor:
        method = ready(seed=seed, recipe=Recipe(attack_steps=1, attack_rel_step=1e-9), epoch=epoch)
        method.attack_start = kind
        whole = batch(6)
        chosen = torch.tensor(order or list(range(6)))
        drawn = Batch(torch.full_like(whole.x, 0.5)[chosen], whole.y[chosen], whole.index[chosen])
        return method.attack(method.context.model, drawn).x_adv - 0.5

    noise = start()
    torch.testing.assert_close(start(order=[3, 0]), noise[[3, 0]])
    assert not torch.equal(start(epoch=1), noise)
    assert not torch.equal(start(seed=1), noise)
    rng = ImageRNG(0, torch.arange(6), stream=1)
    drawn = rng.uniform(noise.shape) * 0.2 - 0.1 if kind == "uniform" else 0.001 * rng.normal(noise.shape)
    torch.testing.assert_close(noise, drawn, rtol=0, atol=1e-6)


def test_the_steps_are_those_of_the_recipe():
    method = ready(recipe=Recipe(attack_steps=3, attack_rel_step=0.1))
    method.attack_start = "gaussian"
    drawn = Batch(torch.full((6, 1, 4, 4), 0.5), torch.arange(6) % 3, torch.arange(6))
    moved = (method.attack(method.context.model, drawn).x_adv - 0.5).abs().max()
    assert moved == pytest.approx(3 * 0.1 * 0.1, abs=0.005)


def test_training_in_another_norm_is_refused_not_done_wrong():
    with pytest.raises(InvalidInput, match=r"^method Plain trains in the Linf ball, not in L2$"):
        ready(threat=ThreatSection(norm="L2", eps=0.5)).attack(net(), batch())


def test_attack_losses_leave_tensors_for_the_loss_in_the_memo():
    class Remembering(Plain):
        def attack_loss(self, model, batch, memo):
            memo["seen"] = batch.x.sum()
            return super().attack_loss(model, batch, memo)

    method = ready(method=Remembering())
    assert method.attack(method.context.model, batch()).memo["seen"] == batch().x.sum()


# ---------------------------------------------------------------- hooks and what surrounds them


def test_loss_is_the_one_hook_that_must_be_written():
    with pytest.raises(InvalidInput, match=r"^method Method has no loss$"):
        ready(method=Method()).loss(net(), batch(), AttackOutput(batch().x))


def test_needs_of_method_and_policies_come_together():
    weighed = policy()
    type(weighed).needs = ("method_split",)
    method = ready(weighed)
    method.needs = ("teacher",)
    assert method.required == {"teacher", "method_split"}


def test_a_method_without_its_teacher_says_so():
    with pytest.raises(InvalidInput, match=r"^method Plain needs a teacher and the suite names none$"):
        ready().teacher_logits(batch().x)


def test_teacher_logits_carry_no_gradient():
    teacher = net()
    logits = ready(teacher=teacher).teacher_logits(batch().x)
    assert not logits.requires_grad
    torch.testing.assert_close(logits, teacher(batch().x).detach())


def test_one_step_is_one_step_of_the_optimiser_inside_what_policies_put_around_it():
    events: list[str] = []

    class Around(ClassPolicy):
        name: str = hyper("", source="test")

        def around(self, closure):
            events.append(f"{self.name} before")
            output = closure()
            events.append(f"{self.name} after")
            return output

    method = ready(Around(name="first"), Around(name="second"))
    model = method.context.model
    weights = model[4].weight.detach().clone()

    def closure() -> StepOutput:
        events.append("closure")
        method.context.optimizer.zero_grad()
        output = method.loss(model, batch(), AttackOutput(batch().x))
        output.loss.backward()
        return output

    output = method.step(closure)
    assert events == ["second before", "first before", "closure", "first after", "second after"]
    torch.testing.assert_close(model[4].weight.detach(), weights - 0.1 * model[4].weight.grad)
    assert output.logits_adv.shape == (12, 3)


def test_hooks_reach_every_policy():
    class Listening(ClassPolicy):
        def setup(self, context):
            super().setup(context)
            self.heard = ["setup"]

        def begin_epoch(self, context):
            self.heard.append(f"begin {context.epoch}")

        def end_epoch(self, record):
            self.heard.append(f"end {record.num_classes}")

    method = ready(Listening(), Listening(), epoch=4)
    method.begin_epoch(method.context)
    method.end_epoch(ClassRecord(3, CPU))
    assert [part.heard for part in method.policies] == [["setup", "begin 4", "end 3"]] * 2


def test_policies_hand_the_exported_model_on():
    class Wrapping(ClassPolicy):
        def export_model(self, model):
            return nn.Sequential(model)

    method = ready()
    assert method.export_model() is method.context.model
    exported = ready(Wrapping(), policy(), Wrapping()).export_model()
    assert isinstance(exported[0][0][0], nn.Conv2d)


def test_statistics_for_the_record():
    class Counting(ClassPolicy):
        def statistics(self, batch, attacked, output):
            return {"mine": batch.index.float()}

    method, drawn = ready(Counting()), batch(3)
    adv = torch.tensor([[9.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]], requires_grad=True)
    attacked = AttackOutput(drawn.x, survived=torch.tensor([5, 0, 2]))
    values = method.statistics(drawn, attacked, StepOutput(adv.sum(), logits_adv=adv))
    assert list(values) == ["ce_adv", "correct_adv", "survived", "mine"]
    assert values["correct_adv"].tolist() == [True, False, True]
    torch.testing.assert_close(values["ce_adv"], cross_entropy(adv, drawn.y).detach())
    assert not values["ce_adv"].requires_grad
    both = method.statistics(drawn, AttackOutput(drawn.x), StepOutput(adv.sum(), logits_adv=adv, logits_clean=adv))
    assert list(both) == ["ce_adv", "correct_adv", "ce_clean", "correct_clean", "mine"]


def test_progress_is_the_share_of_epochs_done():
    assert [context(epoch=epoch, epochs=4).progress for epoch in range(4)] == [0, 0.25, 0.5, 0.75]
