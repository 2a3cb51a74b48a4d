"""The checks of a method by name: each runs the method on generated data and raises HookError for a breach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fairbench import registry
from fairbench.authoring.contract import check_attack, check_export, check_gradient, check_step, check_vectors, some
from fairbench.authoring.rehearsal import HookError, Rehearsal
from fairbench.authoring.resumption import check_resume, differing, restore
from fairbench.authoring.spy import FORWARDED, Spy
from fairbench.authoring.syncs import SyncWatch
from fairbench.suites.sections import MethodSpec
from fairbench.suites.suite import PREREQUISITES

__all__ = ["CHECKS"]

NEEDS = (*PREREQUISITES, "method_split")


def _run(spec: MethodSpec, counts: tuple[int, ...] = (8, 8, 8, 8), **arguments: Any) -> Rehearsal:
    """Train two epochs, and check every step and the class vectors before and after each epoch."""
    rehearsal = Rehearsal(spec, counts, inspect=check_step, **arguments)
    check_vectors(rehearsal)
    for _ in range(2):
        rehearsal.epoch()
        check_vectors(rehearsal)
    return rehearsal


def _setup(spec: MethodSpec) -> str:
    """The method can be built and set up, and needs nothing that a run cannot give."""
    rehearsal = Rehearsal(spec)
    strange = rehearsal.method.required.difference(NEEDS)
    if strange:
        raise HookError(f"needs {some(sorted(strange))}, but a run can give only {', '.join(NEEDS)}")
    check_vectors(rehearsal)
    return f"needs {', '.join(sorted(rehearsal.method.required)) or 'nothing'}"


def _attack(spec: MethodSpec) -> str:
    """Adversarial images lie in their balls and in [0,1]."""
    rehearsal = Rehearsal(spec)
    rehearsal.begin()
    check_attack(rehearsal, *rehearsal.attack(rehearsal.batches[0]))
    return "x_adv inside ball and box"


def _loss(spec: MethodSpec) -> str:
    """The loss is a finite scalar with a gradient."""
    rehearsal = Rehearsal(spec, inspect=check_step)
    rehearsal.begin()
    step = rehearsal.step(rehearsal.batches[0])
    check_gradient(rehearsal)
    return f"{float(step.output.loss.detach()):.3f} at the first step"


def _flags(spec: MethodSpec) -> str:
    """The attack leaves the model unchanged: train and requires_grad flags, weights and their gradients."""
    rehearsal = Rehearsal(spec)
    rehearsal.begin()
    model = rehearsal.model.train()
    flags, weights = _flags_of(model), [value.detach().clone() for value in model.parameters()]
    rehearsal.attack(rehearsal.batches[0])
    changed = [name for name, flag in _flags_of(model).items() if flags[name] != flag]
    if changed:
        raise HookError(f"attack does not restore {some(changed)} of the model: use `with fairbench.frozen(model)`")
    for (name, value), before in zip(model.named_parameters(), weights, strict=True):
        if not torch.equal(value.detach(), before):
            raise HookError(f"attack changes the weights {name}")
        if value.grad is not None:
            raise HookError(f"attack computes gradients of the weights ({name}): only that of the input is needed")
    return "train and requires_grad flags as before the attack"


def _flags_of(model: nn.Module) -> dict[str, bool]:
    flags = {f"{name or 'model'}.training": module.training for name, module in model.named_modules()}
    return flags | {f"{name}.requires_grad": value.requires_grad for name, value in model.named_parameters()}


def _training(spec: MethodSpec) -> str:
    """Two epochs change the weights."""
    before, after = Rehearsal(spec).model, _run(spec).model
    if not dict(after.named_parameters()).keys() & differing(before, after):
        raise HookError("no weight changes in two epochs: does step call the optimizer?")
    return "2 epochs, weights change"


def _vectors(spec: MethodSpec) -> str:
    """Each policy supplies the vectors that it declares, from setup on."""
    policies = _run(spec).method.policies
    return ", ".join(vector for policy in policies for vector in policy.supplies) or "none supplied"


def _composition(spec: MethodSpec) -> str:
    """Hooks and state reach a policy that is added to the method, and each vector in `reads` has an effect."""
    reads = registry.methods.get(spec.base).reads
    if not reads and not spec.policies:
        return "takes no class policies"
    before, after = Spy(), Spy()
    rehearsal = Rehearsal(spec, policies=[before])
    rehearsal.epoch()
    check_export(rehearsal)
    for hook, caller in FORWARDED.items():
        if hook not in before.reached:
            raise HookError(f"{hook} does not reach the class policies: call super().{caller} from {caller}")
    restore(Rehearsal(spec, policies=[after]), rehearsal)
    if not torch.equal(after.epochs, before.epochs):
        raise HookError("state_dict and load_state_dict leave out the class policies: call super()'s from them")
    plain = _effect(spec)
    unread = [vector for vector in reads if _effect(spec, vector) == plain]
    if unread:
        raise HookError(f"reads names {', '.join(unread)}, which changes neither the attack nor the loss")
    return f"reads {', '.join(reads) or 'no class vector'}"


def _effect(spec: MethodSpec, *supplied: str) -> tuple[float, float]:
    """The first adversarial images and the first loss with an uneven vector, as two numbers."""
    rehearsal = Rehearsal(spec, policies=[Spy(*supplied)])
    rehearsal.begin()
    step = rehearsal.step(rehearsal.batches[0])
    return float(step.attacked.x_adv.double().sum()), float(step.output.loss.detach())


def _deterministic(spec: MethodSpec) -> str:
    """Two runs with one seed give the same bits."""
    names = differing(_run(spec).model, _run(spec).model)
    if names:
        raise HookError(f"two runs with one seed differ in {some(names)}: draw from torch's generator or from ImageRNG")
    return "two runs with one seed are equal"


def _resume(spec: MethodSpec) -> str:
    """A stopped run resumes and ends with the same bits."""
    check_resume(spec)
    return "a resume after epoch 1 gives the same weights"


def _export(spec: MethodSpec) -> str:
    """The exported model, which is selected and tested, has the architecture that was trained."""
    rehearsal = _run(spec)
    return "the trained model" if check_export(rehearsal) is rehearsal.model else "a model of the method's own"


def _syncs(spec: MethodSpec) -> str:
    """No step makes the host wait for the device."""
    watch = SyncWatch()
    rehearsal = Rehearsal(spec, watch=watch)
    rehearsal.begin()
    with watch:
        rehearsal.go()
    if watch.found:
        raise HookError("; ".join(f"{what} ({count} times)" for what, count in watch.found.items()))
    return "none in augment, attack, loss, step or statistics"


def _under(*counts: int, **arguments: Any) -> Callable[[MethodSpec], str]:
    """A check that trains two epochs under changed conditions."""

    def examine(spec: MethodSpec) -> str:
        check_export(_run(spec, counts or (8, 8, 8, 8), **arguments))
        return "2 epochs"

    return examine


CHECKS: dict[str, Callable[[MethodSpec], str]] = {
    "setup": _setup,
    "attack": _attack,
    "loss": _loss,
    "model restored": _flags,
    "training": _training,
    "class vectors": _vectors,
    "composition": _composition,
    "determinism": _deterministic,
    "resume": _resume,
    "export_model": _export,
    "host syncs": _syncs,
    "class missing from a batch": _under(order="by class"),
    "3 classes": _under(8, 8, 8, batch_size=8),
    "100 classes": _under(*[2] * 100, batch_size=50),
    "imbalanced classes": _under(1, 3, 9, 27),
    "bf16 autocast": _under(precision="bf16"),
}
