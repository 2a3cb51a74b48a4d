"""The state that a stopped training resumes from, in one file, so that a kill cannot leave two files that disagree."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fairbench import distributed
from fairbench.cost import CostMeter
from fairbench.errors import CorruptFile, FairbenchError, Missing
from fairbench.files import atomic, open_regular, parse_json, write_json
from fairbench.method.method import Method
from fairbench.results.folder import RunFolder

__all__ = ["State", "load_resume", "save_resume"]


@dataclass
class State:
    """The state of a training besides weights, momentum and the method's tensors."""

    epoch: int = 0
    best_score: float = -math.inf
    best_epoch: int = -1
    best_checksum: str = ""
    flops_per_step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    cost: CostMeter = field(default_factory=CostMeter)


def save_resume(
    folder: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer, method: Method, state: State
) -> None:
    """Write the state, the weights, the momentum and the method's tensors into one file."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"method/{name}": value for name, value in method.state_dict().items()}
    for position, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{position}/{name}": value for name, value in slots.items() if value is not None}
    status = {
        "epoch": state.epoch,
        "best_score": state.best_score if math.isfinite(state.best_score) else None,
        "best_epoch": state.best_epoch,
        "best_checksum": state.best_checksum,
        "flops_per_step": state.flops_per_step,
        "cost": state.cost.as_dict(),
    }
    with atomic(folder.resume) as temporary:
        metadata = {"status": json.dumps(status), "history": json.dumps(state.history)}
        metadata["digest"] = _digest(tensors, metadata)
        temporary.write_bytes(save({name: value.contiguous() for name, value in tensors.items()}, metadata=metadata))
    write_json(folder.status, status)


def load_resume(folder: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer, method: Method) -> State:
    """Restore weights, momentum and the method's tensors and return the state; without a file, return a new state.

    Raises CorruptFile on all ranks when the file is damaged for one rank, and FairbenchError when ranks see different
    files.
    """
    damage: CorruptFile | None = None
    try:
        state = _load(folder, model, optimizer, method) if folder.resume.exists() else State()
    except CorruptFile as error:
        damage, state = error, State(epoch=-1)
    epochs = distributed.exchange(state.epoch)
    if -1 in epochs:
        raise damage or CorruptFile(f"{folder.resume}: is damaged for rank {epochs.index(-1)}", folder.resume)
    if len(set(epochs)) > 1:
        raise FairbenchError(f"{folder.resume}: the ranks see it at different epochs, {epochs}: is the folder shared?")
    return state


def _load(folder: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer, method: Method) -> State:
    """Read the state and restore it; the file may come from a stranger, so that any part of it may be invalid."""
    try:
        return _restored(folder, model, optimizer, method)
    except torch.OutOfMemoryError:
        raise
    except (
        SafetensorError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        OSError,
        Missing,
    ) as error:
        line = " ".join(str(error).split())[:300] or type(error).__name__
        raise CorruptFile(f"{folder.resume}: cannot be resumed from: {line}", folder.resume) from None


def _restored(folder: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer, method: Method) -> State:
    with open_regular(folder.resume):  # safetensors would wait for a pipe's writer
        pass
    with safe_open(folder.resume, framework="pt") as archive:
        metadata = archive.metadata()
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    if metadata.pop("digest") != _digest(tensors, metadata):
        raise ValueError("its content does not match its checksum")
    status, history = (parse_json(metadata[part].encode()) for part in ("status", "history"))
    epoch, score, cost = int(status["epoch"]), status["best_score"], status["cost"]
    if epoch < 0 or len(history) != epoch:
        raise ValueError(f"epoch {epoch} with a history of {len(history)}")
    model.load_state_dict(_under(tensors, "model/"))
    method.load_state_dict(_under(tensors, "method/"))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(tensors, "optimizer/").items():
        position, _, name = key.partition("/")
        slots.setdefault(int(position), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    return State(
        epoch=epoch,
        best_score=-math.inf if score is None else float(score),
        best_epoch=int(status["best_epoch"]),
        best_checksum=str(status["best_checksum"]),
        flops_per_step=int(status["flops_per_step"]),
        history=history,
        cost=CostMeter(int(cost["forwards"]), int(cost["backwards"]), float(cost["seconds"])),
    )


def _digest(tensors: dict[str, Tensor], texts: dict[str, str]) -> str:
    """SHA-256 of the texts and of every tensor's name and bytes: safetensors files have no checksum of their own."""
    found = sha256(json.dumps(texts, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
