"""The networks that a run starts from, learns from or attacks, opened from its folder or from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fairbench.errors import InvalidInput, Missing
from fairbench.files import checksum
from fairbench.models import load_checkpoint, open_model
from fairbench.results.folder import RunFolder
from fairbench.run.zoo import open_published
from fairbench.suites.spec import RunSpec

__all__ = ["open_prerequisite", "open_weights"]


def open_weights(spec: RunSpec, folder: RunFolder, kind: str) -> nn.Module:
    """Open a run's checkpoint for attacks: `best`, `last`, or the file of a run that evaluates one, for both."""
    if spec.published is not None:
        model = open_published(spec)
    elif spec.checkpoint is not None:
        model = open_model(_path(spec.checkpoint))
    else:
        model, _ = load_checkpoint(folder.best if kind == "best" else folder.last, spec.model)
    return model.to(spec.environment.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def open_prerequisite(needed: RunSpec | str | None, results: Path, device: str) -> nn.Module | None:
    """Open a prerequisite's best weights, frozen; raises Missing if its run has not been trained."""
    if needed is None:
        return None
    if isinstance(needed, RunSpec):
        path = RunFolder(results / needed.folder).best
        if not path.exists():
            raise Missing(f"{path}: the {needed.role} has not been trained yet")
        model, _ = load_checkpoint(path, needed.model)
    else:
        model = open_model(_path(needed))
    model.eval().requires_grad_(False)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _path(checkpoint: str) -> str:
    """The path in `file:PATH#DIGEST`; raises Missing, and InvalidInput if the file has changed since the planning."""
    path, _, expected = checkpoint.removeprefix("file:").rpartition("#")
    if not Path(path).is_file():
        raise Missing(f"{path}: no such file")
    if not checksum(Path(path)).startswith(expected):
        raise InvalidInput(f"{path}: changed since the run was planned")
    return path
