from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fairbench.attacks import ImageRNG
from fairbench.data.batch import Batch
from fairbench.errors import InvalidInput
from fairbench.losses import cross_entropy
from fairbench.method.composition import check_composition
from fairbench.method.method import VECTORS, ClassPolicy, Context, Method
from fairbench.method.record import AttackOutput, ClassRecord, StepOutput
from fairbench.method.tunable import hyper
from fairbench.suites.spec import Recipe, ThreatSection

CPU = torch.device("cpu")


def net(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, classes))


def context(**settings) -> Context:
    model = settings.pop("model", None) or net()
    base = {
        "model": model,
        "num_classes": 3,
        "class_counts": torch.tensor([4, 4, 4]),
        "device": CPU,
        "threat": ThreatSection(eps=0.1),
        "recipe": Recipe(attack_steps=5, attack_rel_step=0.5),
        "seed": 0,
        "epochs": 10,
        "train_size": 12,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    return Context(**{**base, **settings})


def batch(size: int = 12, offset: int = 0) -> Batch:
    x = torch.rand(size, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return Batch(x, torch.arange(size) % 3, torch.arange(size) + offset)


class Plain(Method):
    """Cross-entropy on adversarial inputs."""

    reads: ClassVar = ("weight", "weight_adv", "margin", "step")

    def loss(self, model, batch, attacked):
        logits = model(attacked.x_adv)
        return StepOutput(self.mean(cross_entropy(logits, batch.y), batch.y, "weight_adv"), logits_adv=logits)


def policy(**constant: list[float]) -> ClassPolicy:
    """A policy that supplies constant vectors."""

    class Constant(ClassPolicy):
        supplies: ClassVar = tuple(constant)

        def vectors(self):
            return {name: torch.tensor(value) for name, value in constant.items()}

    return Constant()


def ready(*policies: ClassPolicy, method: Method | None = None, **settings) -> Method:
    method = method or Plain()
    method.policies = list(policies)
    method.setup(context(**settings))
    return method


# ---------------------------------------------------------------- the record


def test_class_means_are_by_true_counts():
    record = ClassRecord(3, CPU)
    right = torch.tensor([True, False, True])
    record.add(torch.tensor([0, 0, 2]), {"loss": torch.tensor([1.0, 2.0, 4.0]), "right": right})
    record.add(torch.tensor([0, 2]), {"loss": torch.tensor([6.0, 0.0])})
    torch.testing.assert_close(record.mean("loss"), torch.tensor([3.0, 0.0, 2.0]))
    torch.testing.assert_close(record.mean("right"), torch.tensor([0.5, 0.0, 1.0]))
    assert record.counts["loss"].tolist() == [3, 0, 2]


def test_statistics_may_be_rows():
    record = ClassRecord(2, CPU)
    record.add(torch.tensor([1, 1]), {"share": torch.tensor([[1.0, 0.0, 3.0], [3.0, 0.0, 1.0]])})
    torch.testing.assert_close(record.mean("share"), torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 2.0]]))


def test_the_record_keeps_no_graph():
    record, values = ClassRecord(2, CPU), torch.ones(2, requires_grad=True)
    record.add(torch.tensor([0, 1]), {"loss": values * 2})
    assert not record.sums["loss"].requires_grad


def test_a_statistic_that_nobody_kept_is_named():
    record = ClassRecord(2, CPU)
    with pytest.raises(InvalidInput, match=r"^the class record has no 'ce'; it has: nothing$"):
        record.mean("ce")
    record.add(torch.tensor([0]), {"b": torch.ones(1), "a": torch.ones(1)})
    with pytest.raises(InvalidInput, match=r"it has: a, b$"):
        record.mean("ce")


samples = st.tuples(st.integers(0, 3), st.floats(-100, 100, width=32))


@given(st.lists(samples, min_size=1, max_size=40), st.integers(1, 9))
def test_means_do_not_depend_on_the_batches(samples, size):
    y, values = (torch.tensor(column) for column in zip(*samples, strict=True))
    whole, parts = ClassRecord(4, CPU), ClassRecord(4, CPU)
    whole.add(y, {"v": values})
    for start in range(0, len(y), size):
        parts.add(y[start : start + size], {"v": values[start : start + size]})
    torch.testing.assert_close(parts.mean("v"), whole.mean("v"), rtol=1e-4, atol=1e-4)
    for label in range(4):
        mine = [value for c, value in samples if c == label]
        assert whole.mean("v")[label].item() == pytest.approx(sum(mine) / max(len(mine), 1), rel=1e-4, abs=1e-4)


# ---------------------------------------------------------------- class vectors


def test_every_vector_is_one_until_a_policy_supplies_it():
    method = ready()
    for name in VECTORS:
        assert method.vector(name).tolist() == [1.0, 1.0, 1.0]


def test_vectors_of_several_policies_are_multiplied():
    method = ready(policy(weight=[1.0, 2.0, 3.0]), policy(margin=[0.5, 0.5, 0.5]), policy(weight=[2.0, 2.0, 0.0]))
    assert method.vector("weight").tolist() == [2.0, 4.0, 0.0]
    assert method.per_sample("weight", torch.tensor([2, 0, 1, 1])).tolist() == [0.0, 2.0, 4.0, 4.0]
    assert method.vector("margin").tolist() == [0.5, 0.5, 0.5]


def test_a_policy_owns_one_tensor_of_ones_for_each_vector_it_supplies():
    class Owner(ClassPolicy):
        supplies = ("weight", "margin")

        def end_epoch(self, record):
            self.margin = self.margin * torch.tensor([1.0, 2.0, 3.0])

    method = ready(owner := Owner())
    assert {name: vector.tolist() for name, vector in owner.vectors().items()} == {
        "weight": [1.0, 1.0, 1.0],
        "margin": [1.0, 1.0, 1.0],
    }
    assert all(vector.dtype == torch.float32 for vector in owner.vectors().values())
    owner.end_epoch(ClassRecord(3, CPU))
    assert method.vector("margin").tolist() == [1.0, 2.0, 3.0]
    assert set(method.state_dict()) == {"0:weight", "0:margin"}
    assert set(method.class_state()) == {"weight", "margin"}
    other = ready(Owner())
    other.load_state_dict(method.state_dict())
    assert other.vector("margin").tolist() == [1.0, 2.0, 3.0]


def test_a_policy_that_computes_its_vectors_keeps_no_others():
    steering = policy(weight=[1.0, 2.0, 3.0])
    method = ready(steering)
    assert method.state_dict() == {}
    assert method.vector("weight").tolist() == [1.0, 2.0, 3.0]


def test_the_scale_of_a_sample_is_the_product_that_the_mean_uses():
    method, y = ready(policy(weight=[1.0, 2.0, 3.0], weight_adv=[4.0, 1.0, 1.0])), torch.tensor([0, 1, 2, 2])
    assert method.sample_weights(y).tolist() == [1.0, 2.0, 3.0, 3.0]
    assert method.sample_weights(y, "weight_adv").tolist() == [4.0, 2.0, 3.0, 3.0]
    values = torch.tensor([1.0, 10.0, 100.0, 0.0])
    assert method.mean(values, y, "weight_adv").item() == pytest.approx((4 + 20 + 300) / 4)


def test_passes_come_in_their_order_and_only_the_first_of_a_kind_counts():
    method, drawn, shown = ready(), batch(), []
    attacked = AttackOutput(1 - drawn.x)
    model = method.context.model.train()
    model.register_forward_pre_hook(lambda _, images: shown.append((images[0] is drawn.x, torch.is_grad_enabled())))
    logits = method.passes(model, drawn, attacked, "clean-adv-clean", silent=("adv",))
    assert shown == [(True, True), (False, False), (True, False)]
    assert list(logits) == ["clean", "adv"]
    assert (logits["clean"].requires_grad, logits["adv"].requires_grad) == (True, False)
    assert list(method.passes(model, drawn, attacked, "adv")) == ["adv"]


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_a_start_is_clipped_where_the_method_says_so(kind):
    class Clipped(Plain):
        attack_start = kind
        clip_start = True

    class Free(Plain):
        attack_start = kind

    drawn = batch()
    black = Batch(torch.zeros_like(drawn.x), drawn.y, drawn.index)
    clipped, free = (ready(method=cls()).start(black) for cls in (Clipped, Free))
    assert free.min() < 0
    assert torch.equal(clipped, free.clamp(0, 1))


def test_the_mean_is_scaled_by_weight_and_by_what_is_named():
    method = ready(policy(weight=[1.0, 2.0, 4.0], weight_adv=[3.0, 1.0, 1.0], weight_clean=[0.0, 0.0, 0.0]))
    values, y = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0, 1, 2])
    assert method.mean(values, y).item() == pytest.approx((1 + 2 + 8) / 3)
    assert method.mean(values, y, "weight_adv").item() == pytest.approx((3 + 2 + 8) / 3)
    assert method.mean(values, y, "weight_clean").item() == 0


def test_a_batch_normalised_vector_has_mean_one_over_the_batch():
    weighed = policy(weight=[1.0, 2.0, 4.0])
    type(weighed).batch_normalised = ("weight",)
    method = ready(weighed)
    y = torch.tensor([0, 0, 1])  # weights 1, 1, 2: mean 4/3
    assert method.mean(torch.ones(3), y).item() == pytest.approx(1)
    assert method.mean(torch.tensor([0.0, 0.0, 1.0]), y).item() == pytest.approx(2 / (4 / 3) / 3)


def test_a_base_must_read_what_its_policies_steer_by():
    check_composition("mine", Plain, [type(policy(weight=[1.0], margin=[1.0]))])
    message = r"^mine: Constant steers by beta, which Plain does not read \(it reads: weight, weight_adv, margin, st"
    with pytest.raises(InvalidInput, match=message):
        check_composition("mine", Plain, [type(policy(weight=[1.0], beta=[1.0]))])
    with pytest.raises(InvalidInput, match=r"which Method does not read \(it reads: nothing\)"):
        check_composition("mine", Method, [type(policy(beta=[1.0]))])
    for base, policies in ((None, []), (type(policy()), []), (Plain, [Plain]), (Plain, [len])):
        with pytest.raises(InvalidInput, match=r"^mine: \w+ is no (Method|ClassPolicy)$"):
            check_composition("mine", base, policies)


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


# ---------------------------------------------------------------- state


class Remembering(ClassPolicy):
    """State of every kind."""

    strength: float = hyper(1.0, source="test")

    def setup(self, context):
        super().setup(context)
        self.duals = torch.zeros(context.num_classes)
        self.table = torch.zeros(context.num_classes, 2)
        self.count = torch.zeros((), dtype=torch.int64)
        self.average = nn.BatchNorm1d(2)


def test_state_is_saved_and_restored_without_being_named():
    method = ready(Remembering(), Remembering())
    method.multipliers = torch.tensor([1.0, 2.0, 3.0])
    method.policies[1].duals += torch.tensor([4.0, 5.0, 6.0])
    method.policies[1].count += 2**40
    method.policies[1].average.running_mean.fill_(7)
    state = method.state_dict()
    assert {name for name in state if name.startswith("1:")} == {
        *(f"1:{name}" for name in ("duals", "table", "count")),
        *(f"1:average/{name}" for name in nn.BatchNorm1d(2).state_dict()),
    }
    assert not any("strength" in name or "context" in name for name in state)

    again = ready(Remembering(), Remembering())
    again.load_state_dict(state)
    assert again.multipliers.tolist() == [1.0, 2.0, 3.0]
    assert [part.duals.tolist() for part in again.policies] == [[0.0, 0.0, 0.0], [4.0, 5.0, 6.0]]
    assert again.policies[1].count == 2**40
    assert again.policies[1].average.running_mean.tolist() == [7.0, 7.0]


def test_saved_state_is_a_copy_both_ways():
    method = ready(Remembering())
    state = method.state_dict()
    method.policies[0].duals += 1
    assert state["0:duals"].tolist() == [0.0, 0.0, 0.0]
    method.load_state_dict(state)
    method.policies[0].duals += 1
    method.policies[0].average.running_mean += 1
    assert state["0:duals"].tolist() == [0.0, 0.0, 0.0]
    assert state["0:average/running_mean"].tolist() == [0.0, 0.0]


def test_the_history_gets_every_vector_over_classes_and_nothing_else():
    method = ready(Remembering())
    method.multipliers = torch.tensor([1.0, 2.0, 3.0])
    method.scalar = torch.tensor(1.0)
    method.average = nn.BatchNorm1d(3)
    assert {name: value.tolist() for name, value in method.class_state().items()} == {
        "multipliers": [1.0, 2.0, 3.0],
        "duals": [0.0, 0.0, 0.0],
    }
    assert set(ready(Remembering(), Remembering()).class_state()) == {"0:duals", "1:duals"}
