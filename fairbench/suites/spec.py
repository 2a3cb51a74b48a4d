"""The specification of a run: a validated, frozen, hashable description that determines every result."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fairbench.suites.sections import (
    DataConfig,
    Environment,
    Evaluation,
    MethodSpec,
    Published,
    Recipe,
    Selection,
    ThreatSection,
    Trial,
    TuningMark,
)
from fairbench.suites.values import Frozen, Name, digest

__all__ = ["RunSpec"]


class RunSpec(Frozen):
    """One training run and its evaluation; `run_id` hashes what determines the result, but not which attacks are run.

    With `checkpoint` (`file:PATH#DIGEST`) the weights in that file are evaluated as they are, and nothing is trained. A
    run `until` "trained" stops before its evaluation. `source_hash` identifies plug-in code of its network and of its
    selection attack. `budget` and `tuning` decide which rows it is ranked with. A
    `custom` run has settings that its command changed; `changes` is the hash of all that the command changed.
    """

    suite: Name
    version: int
    method: MethodSpec
    role: Literal["student", "teacher", "natural-teacher", "warm-start"] = "student"
    data: DataConfig
    data_hash: str
    model: str
    source_hash: str | None = None
    recipe: Recipe
    threat: ThreatSection
    selection: Selection
    evaluation: Evaluation
    seed: int
    teacher: RunSpec | str | None = None
    natural_teacher: RunSpec | str | None = None
    warm_start: RunSpec | str | None = None
    checkpoint: str | None = None
    published: Published | None = None
    trial: Trial | None = None
    until: Literal["trained"] | None = None
    budget: str | None = None
    tuning: TuningMark | None = None
    environment: Environment
    protocol: str
    quick: bool = False
    custom: bool = False
    changes: str | None = None
    plugins: tuple[str, ...] = ()
    command: str = ""

    @property
    def run_id(self) -> str:
        """Twelve hex digits; equal ids mean equal results on one type of machine.

        Settings that are None are left out, so that a setting added later with the default None keeps old ids. A
        checkpoint counts by its content, not by its path.
        """
        parts = self.model_dump(mode="json", exclude=_NOT_IDENTITY, exclude_none=True)
        del parts["data"]["name"]
        parts["evaluation"] = {"batch_size": self.evaluation.batch_size, "seed": self.evaluation.seed}
        for name in ("teacher", "natural_teacher", "warm_start", "checkpoint"):
            needed = getattr(self, name)
            if needed is not None:
                parts[name] = needed.run_id if isinstance(needed, RunSpec) else needed.rpartition("#")[2]
        return digest(parts)

    @property
    def frozen_id(self) -> str:
        """Hash of the settings alone, without the suite's name, the torch version, the device and the threads.

        It lets settings chosen by tuning on one machine apply on another.
        """
        prerequisites = {
            need: found.frozen_id
            for need in ("teacher", "natural_teacher", "warm_start")
            if isinstance(found := getattr(self, need), RunSpec)
        }
        left_out = {"suite": "any", "environment": Environment(torch=""), **dict.fromkeys(prerequisites)}
        return digest({"run": self.model_copy(update=left_out).run_id, **prerequisites})

    @property
    def prerequisites(self) -> list[RunSpec | str]:
        """The runs and checkpoints that this run needs: its teachers and its warm start."""
        return [need for need in (self.teacher, self.natural_teacher, self.warm_start) if need is not None]

    @property
    def label(self) -> str:
        """Name of the run's row: its method's name, or its role for other methods."""
        return self.method.name if self.role == "student" else self.role

    @property
    def title(self) -> str:
        """The run's name in progress and plans: its label, the learning rate that a trial tries, and its seed."""
        tried = "" if self.trial is None else f" lr {self.recipe.lr:g}"
        return f"{self.label}{tried} seed {self.seed}"

    @property
    def recipe_hash(self) -> str:
        """Hash of the training settings; `Suite.budget` hashes what runs must share to be ranked together."""
        if self.published is not None:  # these trainings are unknown, so that all are ranked together
            return digest({"recipe": "published weights"})
        return digest({"recipe": self.recipe.model_dump(mode="json"), "model": self.model})

    @property
    def folder(self) -> Path:
        """The run's folder below a results folder."""
        return Path(self.suite) / self.label / self.run_id


_NOT_IDENTITY = {
    "until",
    "budget",
    "tuning",
    "version",
    "evaluation",
    "protocol",
    "plugins",
    "command",
    "teacher",
    "natural_teacher",
    "warm_start",
    "checkpoint",
    "quick",
    "custom",
    "changes",
    "role",
}
