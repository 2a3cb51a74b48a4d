"""The models that a suite names beside the one it trains: teachers, warm starts and published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from fairbench.suites.values import Frozen, Name, Real, Seed

__all__ = ["PublishedModel", "TeacherSpec"]


class TeacherSpec(Frozen):
    """A model that methods learn from or start from: a checkpoint (`file:...`), or a run of the suite.

    A run is trained once for all methods that need it; `recipe` holds the settings that differ from the suite's recipe.
    A checkpoint is evaluated once, for its row on the board.
    """

    checkpoint: str | None = None
    method: str = "trades"
    model: str | None = None
    seed: Seed = 0
    recipe: Mapping[str, Any] = Field(default_factory=dict)


class PublishedModel(Frozen):
    """A public checkpoint that a suite evaluates: where to find it, how to read it, and its source.

    `files` are names it may have in the folder of models, `model` the architecture, `mean` and `std` the normalisation
    in front of it, `weights` the hash of its tensors (`fairbench.models.weights_hash`, the same in any file format) and
    `sha256` that of the published file at `source`. A model of RobustBench needs its `robustbench` name instead.
    """

    name: Name
    model: str = ""
    files: tuple[str, ...] = ()
    robustbench: str | None = None
    weights: str | None = None
    mean: tuple[Real, ...] | None = None
    std: tuple[Real, ...] | None = None
    source: str = ""
    sha256: str | None = None
    license: str = ""
    citation: str = ""

    @model_validator(mode="after")
    def _is_found_one_way(self) -> PublishedModel:
        if (self.robustbench is None) == (not self.files):
            raise ValueError(f"{self.name}: give files with model and weights, or the robustbench name")
        if self.files and not (self.model and self.weights):
            raise ValueError(f"{self.name}: files need the model and the hash of its weights")
        if any(Path(file).name != file for file in self.files):
            raise ValueError(f"{self.name}: files are names in the folder of models, not paths")
        return self
