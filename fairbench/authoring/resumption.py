"""Whether a stopped run continues as an uninterrupted one: the method's state is compared value by value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from fairbench.authoring.contract import check_export, some
from fairbench.authoring.rehearsal import HookError, Rehearsal
from fairbench.suites.sections import MethodSpec

__all__ = ["Trace", "check_resume", "differing", "restore", "traces"]

REBUILT = (nn.Module, torch.optim.Optimizer, torch.Generator)


@dataclass(frozen=True)
class Trace:
    """An attribute's type and value in a comparable form; `rebuilt` marks objects with state of their own.

    Such objects are often scratch memory that each step fills again. They count as lost only if they still differ after
    a whole epoch.
    """

    kind: str
    value: Any
    rebuilt: bool


def check_resume(spec: MethodSpec) -> None:
    """Compare a run of two epochs with one that is saved after the first and loaded into a new instance.

    Raises HookError, which names each attribute that a resume loses.
    """
    straight, saved = Rehearsal(spec), Rehearsal(spec)
    fresh = traces(straight)
    straight.epoch()
    saved.epoch()
    if differing(straight.model, saved.model):
        raise HookError("cannot be judged, because two runs with one seed differ")
    resumed = Rehearsal(spec)
    restore(resumed, saved)
    straight.begin()
    resumed.begin()
    lost = _lost(fresh, straight, resumed, rebuilt=False)
    for rehearsal in (straight, resumed):
        rehearsal.go()
        rehearsal.end()
    lost |= _lost(fresh, straight, resumed, rebuilt=True)
    if lost:
        named = ", ".join(f"{name} ({kind})" for name, kind in lost.items())
        raise HookError(f"a resume loses {named}: keep it in a tensor attribute, or in state_dict and load_state_dict")
    for where, ours, theirs in (
        ("the weights", straight.model, resumed.model),
        ("the exported weights", check_export(straight), check_export(resumed)),
    ):
        names = differing(ours, theirs)
        if names:
            raise HookError(f"after a resume {where} differ in {some(names)}: state_dict does not hold all state")


def differing(first: nn.Module, second: nn.Module) -> list[str]:
    """Names of the weights and buffers that differ in any bit."""
    other = second.state_dict()
    return [name for name, value in first.state_dict().items() if not torch.equal(value, other[name])]


def traces(rehearsal: Rehearsal) -> dict[str, Trace]:
    """Every attribute of the method and its policies by `Class.attribute`, without those that belong to the run."""
    context = rehearsal.context
    shared = [context, context.model, context.teacher, context.natural_teacher, context.optimizer, context.method_split]
    ours = {id(value) for value in shared if value is not None}
    found = {}
    for owner in (rehearsal.method, *rehearsal.method.policies):
        for name, value in vars(owner).items():
            if id(value) not in ours and name != "policies":
                trace = Trace(type(value).__name__, _value(value, ours), isinstance(value, REBUILT))
                found[f"{type(owner).__name__}.{name}"] = trace
    return found


def restore(resumed: Rehearsal, saved: Rehearsal) -> None:
    """Bring a new run to the state of another one, through the file format of runs."""
    with saved.calling("state_dict"):
        archive = safetensors.save({name: value.contiguous() for name, value in saved.method.state_dict().items()})
    resumed.model.load_state_dict(saved.model.state_dict())
    with resumed.calling("load_state_dict"):
        resumed.method.load_state_dict(safetensors.load(archive))
    resumed.context.optimizer.load_state_dict(saved.context.optimizer.state_dict())
    resumed.context.epoch = saved.context.epoch


def _lost(fresh: Mapping[str, Trace], straight: Rehearsal, resumed: Rehearsal, *, rebuilt: bool) -> dict[str, str]:
    """Types, by name, of the attributes that training has changed and the resumed run lacks."""
    now, then = traces(straight), traces(resumed)
    return {
        name: trace.kind
        for name, trace in now.items()
        if trace.rebuilt == rebuilt and trace != fresh.get(name) and trace != then.get(name)
    }


def _value(value: Any, seen: set[int]) -> Any:
    """Nested tuples of plain values that are equal exactly if the values are; `seen` ends cycles."""
    if value is None or isinstance(value, bool | int | str | bytes):
        return value
    if isinstance(value, float):
        return repr(value)  # so that nan equals nan
    if isinstance(value, Tensor):
        data = value.detach().contiguous().reshape(-1).view(torch.uint8)
        return (str(value.dtype), tuple(value.shape), data.numpy().tobytes())
    if id(value) in seen:
        return "..."
    return _inner(value, seen | {id(value)})


def _inner(value: Any, seen: set[int]) -> Any:
    """The comparable form of an object that may hold others, from its state, its items, or its parts for pickle."""
    if isinstance(value, nn.Module | torch.optim.Optimizer):
        return _value(value.state_dict(), seen)
    if isinstance(value, torch.Generator):
        return _value(value.get_state(), seen)
    if isinstance(value, Mapping):
        return tuple((str(key), _value(item, seen)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(_value(item, seen) for item in value)
    if isinstance(value, set | frozenset):
        return tuple(sorted(map(repr, value)))
    if hasattr(value, "tobytes"):
        return value.tobytes()
    if hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return _value(_parts(value), seen)


def _parts(value: object) -> Any:
    """The parts that pickle divides an object into; the name of its type if pickle cannot."""
    try:
        parts = value.__reduce_ex__(2)
    except Exception:
        return type(value).__name__
    return parts if isinstance(parts, str) else [list(part) if isinstance(part, Iterator) else part for part in parts]
