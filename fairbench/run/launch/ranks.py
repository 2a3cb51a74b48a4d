"""Run a plan on torchrun's ranks: one run after the other in these processes; rank 0 leads and writes all files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fairbench import distributed
from fairbench.data import Dataset, balanced_subset, load_dataset
from fairbench.errors import CorruptFile, Diverged, FairbenchError, InvalidInput
from fairbench.evaluation.journal import Journal
from fairbench.results.folder import RunFolder
from fairbench.run.launch.progress import ProgressView
from fairbench.run.networks import open_weights
from fairbench.run.pipeline import attack_checkpoint, execute_run, train_weights
from fairbench.suites.spec import RunSpec

__all__ = ["follow", "launch_ranks"]


def launch_ranks(
    specs: Sequence[RunSpec], results: Path, *, jobs: int | None, launcher: str, view: ProgressView
) -> None:
    """Bring every run to completion on rank 0, one after the other; a failure ends the command.

    Raises InvalidInput for several `jobs` and for another launcher, which the ranks replace.
    """
    if jobs not in (None, 1) or launcher != "local":
        raise InvalidInput("torchrun's ranks work on one run at a time, here: leave out --jobs and --launcher")
    view.say(f"{distributed.world()} ranks work on each run")
    for spec in specs:
        row = view.start(spec.title)  # the total of all runs knows a run by this name
        torch.set_num_threads(spec.environment.threads)
        distributed.tell({"do": "run", "spec": spec.model_dump(mode="json"), "results": str(results)})
        try:
            execute_run(spec, results, progress=row.update, say=row.say)
        except FairbenchError as error:
            row.finish("failed")
            raise type(error)(f"{spec.title}: {error}") from error
        row.finish("done")


def follow() -> None:
    """Work on each run that rank 0 announces, on every other rank, until rank 0 has finished."""
    part: _Part | None = None
    for message in distributed.listen():
        if message["do"] == "run":
            part = _Part(RunSpec.model_validate(message["spec"]), Path(message["results"]))
        elif part is not None:
            part.take(message)


class _Part:
    """A rank's part of one run: the same training and the same attacks, without writing files."""

    def __init__(self, spec: RunSpec, results: Path) -> None:
        self.spec, self.results = spec, results
        self.folder = RunFolder(results / spec.folder)
        self._dataset: Dataset | None = None
        torch.set_num_threads(spec.environment.threads)

    def take(self, message: Mapping[str, Any]) -> None:
        """Train, or attack a checkpoint; errors that all ranks raise together are handled by rank 0."""
        self._dataset = self._dataset or load_dataset(
            self.spec.data.name, train_per_class=self.spec.data.train_per_class
        )
        try:
            if message["do"] == "train":
                train_weights(self.spec, self.folder, self._dataset, self.results)
            else:
                self._attack(self._dataset, message["kind"], message["attack"])
        except (CorruptFile, Diverged):
            return

    def _attack(self, dataset: Dataset, kind: str, text: str) -> None:
        model = open_weights(self.spec, self.folder, kind)
        test = balanced_subset(dataset.test, self.spec.data.test_per_class)
        attack_checkpoint(self.spec, model, test, text, Journal(self.folder.partial, {}))
