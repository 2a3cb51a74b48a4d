"""Findings of the check about state, exported models and host reads."""

from __future__ import annotations

import random

import pytest
import torch
from sound import Even, Sound, failures, with_loss
from torch import nn
from torch.nn import functional as F

from fairbench import (
    StepOutput,
    frozen,
    hyper,
)

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
        (lambda x: x.sum().item(), "calls .item(), which reads a number, at test_checks_state.py:"),
        (lambda x: bool(x.any()), "calls bool(), which reads a number, at test_checks_state.py:"),
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
