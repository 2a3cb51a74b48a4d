"""The networks that a run starts from, learns from or attacks, opened from its folder or from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fairbench.errors import InvalidInput, Missing
from fairbench.files import checksum
from fairbench.models import load_checkpoint, place
from fairbench.results.folder import RunFolder
from fairbench.run.zoo import open_published
from fairbench.suites.spec import RunSpec

__all__ = ["open_prerequisite", "open_weights"]


def open_weights(spec: RunSpec, folder: RunFolder, kind: str) -> nn.Module:
    """Open a run's checkpoint for attacks: `best`, `last`, or the file of a run that evaluates one, for both."""
    device = spec.environment.device
    if spec.published is not None:
        return open_published(spec).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
    if spec.checkpoint is not None:
        model, metadata = load_checkpoint(_path(spec.checkpoint))
    else:
        model, metadata = load_checkpoint(folder.best if kind == "best" else folder.last, spec.model)
    return place(model.eval(), device, metadata.shape)


def open_prerequisite(needed: RunSpec | str | None, results: Path, device: str) -> nn.Module | None:
    """Open a prerequisite's best weights, frozen; raises Missing if its run has not been trained or they are gone."""
    if needed is None:
        return None
    if isinstance(needed, RunSpec):
        folder = RunFolder(results / needed.folder)
        path = folder.best
        if not path.exists():
            if folder.read().get("status") in {"trained", "complete"}:
                raise Missing(
                    f"{path}: the {needed.role} is trained, but its weights are not here; remove {folder.run} to train "
                    "it again"
                )
            raise Missing(f"{path}: the {needed.role} has not been trained yet")
        model, metadata = load_checkpoint(path, needed.model)
    else:
        model, metadata = load_checkpoint(_path(needed))
    return place(model.eval().requires_grad_(False), device, metadata.shape)


def _path(checkpoint: str) -> Path:
    """The path in `file:PATH#DIGEST`; raises Missing, and InvalidInput if the file has changed since the planning."""
    name, _, expected = checkpoint.removeprefix("file:").rpartition("#")
    path = Path(name)
    if not path.is_file():
        raise Missing(f"{path}: no such file")
    if not checksum(path).startswith(expected):
        raise InvalidInput(f"{path}: changed since the run was planned")
    return path
