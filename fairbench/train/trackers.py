"""Loggers for TensorBoard, Weights & Biases and MLflow, each with an optional package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairbench.registration import register_logger
from fairbench.train.logger import Logger, Training

__all__ = ["MLflow", "TensorBoard", "WeightsAndBiases"]


class _Tracker(Logger, ABC):
    """Turns epochs into figures by name and epoch: `train/loss`, `validation/worst`, `temperature/3`."""

    classes: tuple[str, ...] = ()

    def begin(self, training: Training) -> None:
        """Remember the names of the classes."""
        self.classes = training.class_names

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Write the figures of the training images."""
        self.write(epoch, {f"train/{name}": value for name, value in figures.items()})

    def validation(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Write the figures of the held-out images."""
        self.write(epoch, {f"validation/{name}": value for name, value in figures.items()})

    def class_state(self, epoch: int, vectors: Mapping[str, Sequence[float]]) -> None:
        """Write one figure per class; the entries of a vector of another length are numbered."""
        figures: dict[str, float] = {}
        for name, vector in vectors.items():
            labels = self.classes if len(vector) == len(self.classes) else [str(n) for n in range(len(vector))]
            figures |= {f"{name}/{label}": float(value) for label, value in zip(labels, vector, strict=True)}
        self.write(epoch, figures)

    @abstractmethod
    def write(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Store figures by name."""


@register_logger(
    "tensorboard",
    summary="event files below the folder TARGET (default: ./fairbench-out/tensorboard)",
    needs="tensorboard",
)
class TensorBoard(_Tracker):
    """Event files in TARGET/SUITE/METHOD/RUN."""

    def __init__(self, target: str) -> None:
        self._folder = Path(target or "fairbench-out/tensorboard")
        self._writer: Any = None

    def begin(self, training: Training) -> None:
        """Open the run's folder; figures of epochs that are trained again are hidden."""
        from torch.utils.tensorboard import SummaryWriter

        super().begin(training)
        folder = self._folder / training.suite / training.method / training.run_id
        self._writer = SummaryWriter(str(folder), purge_step=training.first_epoch or None)

    def write(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Add scalars."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def end(self, finished: bool) -> None:
        """Close the file."""
        self._writer.close()


@register_logger("wandb", summary="Weights & Biases, in the project TARGET (default: fairbench)", needs="wandb")
class WeightsAndBiases(_Tracker):
    """A run of a project, grouped by method; a resumed training continues the same run."""

    def __init__(self, target: str) -> None:
        self._project = target or "fairbench"
        self._run: Any = None

    def begin(self, training: Training) -> None:
        """Start or resume the run."""
        import wandb

        super().begin(training)
        self._run = wandb.init(
            project=self._project,
            group=f"{training.suite}/{training.method}",
            name=f"{training.method}-{training.seed}",
            id=training.run_id,
            resume="allow",
            config=dict(training.settings),
        )

    def write(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Log figures with their epoch as a figure of its own, because the steps of a run may only grow."""
        self._run.log({"epoch": epoch, **figures})

    def end(self, finished: bool) -> None:
        """Finish the run; an interrupted one is marked as failed."""
        self._run.finish(exit_code=0 if finished else 1)


@register_logger("mlflow", summary="MLflow, at the tracking address TARGET (default: MLflow's own)", needs="mlflow")
class MLflow(_Tracker):
    """A run of the experiment `fairbench/SUITE`, tagged with the run id."""

    def __init__(self, target: str) -> None:
        self._address, self._run = target or None, ""
        self._client: Any = None

    def begin(self, training: Training) -> None:
        """Create the run, with the settings as parameters."""
        from mlflow.tracking import MlflowClient

        super().begin(training)
        self._client = MlflowClient(tracking_uri=self._address)
        name = f"fairbench/{training.suite}"
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known is not None else self._client.create_experiment(name)
        tags = {"fairbench.run_id": training.run_id, "fairbench.method": training.method}
        run = self._client.create_run(experiment, tags=tags, run_name=f"{training.method}-{training.seed}")
        self._run = run.info.run_id
        for section, values in training.settings.items():
            for key, value in values.items() if isinstance(values, Mapping) else [("name", values)]:
                self._client.log_param(self._run, f"{section}.{key}", value)

    def write(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Log metrics; characters of class names that metric names may not hold are replaced."""
        for name, value in figures.items():
            allowed = "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)
            self._client.log_metric(self._run, allowed, value, step=epoch)

    def end(self, finished: bool) -> None:
        """Close the run."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")
