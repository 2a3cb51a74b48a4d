"""Does a method keep the contract? Every hook is driven on generated data, and each breach is one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from fairbench import registry
from fairbench.config import MethodSpec, Recipe
from fairbench.errors import FairbenchError
from fairbench.fingerprint import attributes
from fairbench.method import AttackOutput, Batch, ClassPolicy, ClassRecord, Context, StepOutput
from fairbench.plan import PREREQUISITES, resolve_method
from fairbench.rehearsal import Broken, Rehearsal, Step
from fairbench.syncs import SyncWatch

__all__ = ["Finding", "check"]

Examine = Callable[[MethodSpec], str]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: what was looked at, whether it holds, and in one line what was found."""

    check: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{'ok' if self.passed else 'FAILED':<7} {self.check:<28} {self.detail}".rstrip()


def check(name: str) -> list[Finding]:
    """Drive a method, or a composition `base+policy`, through every hook; seconds on a CPU, nothing is written.

    When the method cannot be set up or take a step at all, the checks that need that are left out. Raises UnknownName;
    whatever the plug-in raises becomes a finding.
    """
    base, *policies = name.split("+")
    registry.methods.entry(base)
    for policy in policies:
        registry.policies.entry(policy)
    try:
        spec = resolve_method(name)
    except Exception as error:
        return [Finding("parts", False, _reason(error))]
    findings = [Finding("parts", True, " + ".join([spec.base, *spec.policies]))]
    with torch.random.fork_rng(devices=[]):
        for title, examine in CHECKS.items():
            findings.append(_examine(title, examine, spec))
            if title in FIRST and not findings[-1].passed:
                break
    return findings


def _examine(title: str, examine: Examine, spec: MethodSpec) -> Finding:
    try:
        return Finding(title, True, examine(spec))
    except Broken as broken:
        return Finding(title, False, str(broken))
    except Exception as error:
        return Finding(title, False, _reason(error))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, FairbenchError) else f"{type(error).__name__}: {text}"


def _setup(spec: MethodSpec) -> str:
    """The method can be built and set up, and asks for nothing that a run cannot give."""
    base = registry.methods.get(spec.base)
    unknown = set(getattr(base, "own_recipe", {})) - set(Recipe.model_fields)
    if unknown:
        raise Broken(f"own_recipe sets {', '.join(sorted(unknown))}, which no recipe has")
    rehearsal = Rehearsal(spec)
    strange = rehearsal.needs - {*PREREQUISITES, "method_split"}
    if strange:
        raise Broken(f"needs {', '.join(sorted(strange))}; a run can give {', '.join([*PREREQUISITES, 'method_split'])}")
    return f"needs {', '.join(sorted(rehearsal.needs)) or 'nothing'}"


def _one_step(spec: MethodSpec) -> str:
    """One attack and one loss: both of the right form."""
    rehearsal = Rehearsal(spec)
    rehearsal.begin()
    step = rehearsal.step(rehearsal.batches[0])
    _check_step(rehearsal, step)
    return f"loss {float(step.output.loss.detach()):.3f}"


def _flags(spec: MethodSpec) -> str:
    """The attack leaves the model as it was: flags, parameters and their gradients."""
    rehearsal = Rehearsal(spec)
    rehearsal.begin()
    model = rehearsal.model.train()
    before = _flags_of(model)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    rehearsal.attack(rehearsal.batches[0])
    changed = [name for name, flag in _flags_of(model).items() if before.get(name) != flag]
    if changed:
        raise Broken(f"attack leaves {_some(changed)} of the model changed; restore it, or use fairbench.frozen")
    moved = [name for name, value in model.named_parameters() if not torch.equal(weights[name], value.detach())]
    if moved:
        raise Broken(f"attack changes the weights {_some(moved)}")
    touched = [name for name, value in model.named_parameters() if value.grad is not None]
    if touched:
        raise Broken(f"attack leaves gradients in {_some(touched)}: take torch.autograd.grad with respect to the input")
    return "restored by attack"


def _training(spec: MethodSpec) -> str:
    """Two epochs change the weights, and every step and every class vector on the way is sound."""
    rehearsal = Rehearsal(spec)
    before = [parameter.detach().clone() for parameter in rehearsal.model.parameters()]
    _run(rehearsal)
    after = list(rehearsal.model.parameters())
    if all(torch.equal(old, new.detach()) for old, new in zip(before, after, strict=True)):
        raise Broken("two epochs leave every parameter as it was: step must step the optimizer")
    return f"2 epochs, loss {float(rehearsal.steps[-1].output.loss.detach()):.3f} at the end"


def _vectors(spec: MethodSpec) -> str:
    """Every policy supplies what it says it does, from setup to the end."""
    rehearsal = Rehearsal(spec)
    _check_vectors(rehearsal)
    for _ in range(2):
        rehearsal.epoch()
        _check_vectors(rehearsal)
    names = [vector for policy in rehearsal.method.policies for vector in policy.supplies]
    return ", ".join(names) or "none supplied"


class _Spy(ClassPolicy):
    """A policy that notes which hooks reach it and supplies whatever vector it is told to."""

    def __init__(self, supplies: tuple[str, ...], values: Tensor) -> None:
        super().__init__()
        self.supplies = supplies  # type: ignore[misc]
        self.values = values
        self.reached: list[str] = []

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.reached.append("setup")

    def begin_epoch(self, context: Context) -> None:
        self.reached.append("begin_epoch")

    def statistics(self, batch: Batch, attacked: AttackOutput, output: StepOutput) -> Mapping[str, Tensor]:
        self.reached.append("statistics")
        return {}

    def end_epoch(self, record: ClassRecord) -> None:
        self.reached.append("end_epoch")

    def vectors(self) -> Mapping[str, Tensor]:
        return dict.fromkeys(self.supplies, self.values)


def _composition(spec: MethodSpec) -> str:
    """Hooks reach a policy that is added to the method, and each vector that the objective reads has an effect."""
    reads = registry.methods.get(spec.base).reads
    if not reads:
        return "reads no class vector"
    spy = _Spy((), torch.ones(4))
    rehearsal = Rehearsal(spec, policies=[spy])
    rehearsal.epoch()
    missing = [hook for hook in ("setup", "begin_epoch", "statistics", "end_epoch") if hook not in spy.reached]
    if missing:
        raise Broken(f"{', '.join(missing)} does not reach class policies: call super().{missing[0]}(...)")
    unread = [vector for vector in reads if _effect(spec, vector) == _effect(spec, None)]
    if unread:
        raise Broken(f"reads {', '.join(unread)}, but the attack and the loss do not depend on it")
    return f"reads {', '.join(reads)}"


def _effect(spec: MethodSpec, vector: str | None) -> tuple[float, float]:
    """The first attack and loss under an uneven vector, as two numbers."""
    spy = _Spy((vector,) if vector else (), torch.tensor([0.4, 0.6, 0.8, 1.0]))
    rehearsal = Rehearsal(spec, policies=[spy])
    rehearsal.begin()
    step = rehearsal.step(rehearsal.batches[0])
    return float(step.attacked.x_adv.double().sum()), float(step.output.loss.detach())


def _deterministic(spec: MethodSpec) -> str:
    """Two runs with one seed give the same bits."""
    first, second = _run(Rehearsal(spec)), _run(Rehearsal(spec))
    differing = _different(first.model, second.model)
    if differing:
        raise Broken(f"two runs with one seed differ in {_some(differing)}: draw random numbers from ImageRNG or torch")
    return "two runs with one seed are equal"


def _resume(spec: MethodSpec) -> str:
    """A run that is saved after its first epoch and goes on in a fresh process gives the same bits."""
    straight, saved = Rehearsal(spec), Rehearsal(spec)
    fresh = attributes(straight)
    straight.epoch()
    saved.epoch()
    if _different(straight.model, saved.model):
        raise Broken("cannot be judged: two runs with one seed differ")
    resumed = Rehearsal(spec)
    _restore(resumed, saved)
    for rehearsal in (straight, resumed):
        rehearsal.begin()
    now, then = attributes(straight), attributes(resumed)
    lost = [name for name in now if now[name] not in (fresh.get(name), then.get(name)) and not now[name].rebuilt]
    for rehearsal in (straight, resumed):
        for batch in rehearsal.batches:
            rehearsal.step(batch)
        rehearsal.end()
    now, then = attributes(straight), attributes(resumed)
    lost += [name for name in now if now[name].rebuilt and now[name] not in (fresh.get(name), then.get(name))]
    if lost:
        kinds = ", ".join(f"{name} ({now[name].kind})" for name in lost)
        raise Broken(f"a resume loses {kinds}: keep it in a tensor attribute, or in state_dict and load_state_dict")
    differing = _different(straight.model, resumed.model)
    if differing:
        raise Broken(f"after a resume the weights differ in {_some(differing)}: state_dict does not hold all state")
    return "a resume after epoch 1 gives the same weights"


def _restore(resumed: Rehearsal, saved: Rehearsal) -> None:
    """Bring a fresh run to where another one stands, through the file format that runs are kept in."""
    with saved.calling("state_dict"):
        state = saved.method.state_dict()
        archive = safetensors.save({name: value.contiguous() for name, value in state.items()})
    resumed.model.load_state_dict(saved.model.state_dict())
    with resumed.calling("load_state_dict"):
        resumed.method.load_state_dict(safetensors.load(archive))
    resumed.context.optimizer.load_state_dict(saved.context.optimizer.state_dict())
    resumed.context.epoch = saved.context.epoch
