"""Class vectors: their suppliers, their product, and the saving of state."""

from __future__ import annotations

import pytest
import torch
from plain_method import CPU, Plain, batch, policy, ready
from torch import nn

from fairbench.data.batch import Batch
from fairbench.errors import InvalidInput
from fairbench.method.composition import check_composition
from fairbench.method.method import Method
from fairbench.method.policy import VECTORS, ClassPolicy
from fairbench.method.record import AttackOutput, ClassRecord
from fairbench.method.tunable import hyper


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


class Remembering(ClassPolicy):
    """State of every type."""

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
