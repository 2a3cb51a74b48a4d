from __future__ import annotations

import sys
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_runs import history

import fairbench
from fairbench import registry
from fairbench.authoring import catalogue
from fairbench.data import load_dataset
from fairbench.errors import InvalidInput, Missing, UnknownName
from fairbench.method.method import Method
from fairbench.results.folder import RunFolder
from fairbench.train.logger import VARIABLE, Logger, Training, check_loggers, open_loggers
from fairbench.train.loop import train


class _Diary(Logger):
    """Records every call."""

    def __init__(self) -> None:
        self.pages: list[tuple[str, Any]] = []

    def begin(self, training: Training) -> None:
        self.pages.append(("begin", training))

    def epoch(self, epoch: int, figures: Any) -> None:
        self.pages.append(("epoch", (epoch, figures)))

    def class_state(self, epoch: int, vectors: Any) -> None:
        self.pages.append(("class_state", (epoch, vectors)))

    def validation(self, epoch: int, figures: Any) -> None:
        self.pages.append(("validation", (epoch, figures)))

    def end(self, finished: bool) -> None:
        self.pages.append(("end", finished))


def _state(method: Method) -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(float(method.context.num_classes))}


@pytest.fixture
def trained(spec_of, tmp_path, monkeypatch):
    """Return `trained(name, loggers)`: a run of two epochs with class-wise state."""
    monkeypatch.setattr(Method, "class_state", _state)
    spec = spec_of()
    dataset = load_dataset(spec.data.name)

    def trained(name: str, *loggers: Logger) -> tuple[Any, RunFolder]:
        folder = RunFolder(tmp_path / name)
        train(spec, folder, dataset, loggers=loggers)
        return spec, folder

    return trained


def test_a_logger_is_told_what_the_history_holds(trained):
    diary = _Diary()
    spec, folder = trained("run", diary)
    names = [name for name, _ in diary.pages]
    assert names == ["begin", *(["epoch", "class_state", "validation"] * 2), "end"]
    training = diary.pages[0][1]
    assert (training.run_id, training.seed, training.epochs, training.first_epoch) == (spec.run_id, 0, 2, 0)
    assert training.settings["recipe"]["lr"] == spec.recipe.lr
    rows = history(folder)
    for number, row in enumerate(rows):
        told = {name: page[1] for name, page in diary.pages if name not in ("begin", "end") and page[0] == number}
        assert told["class_state"] == {"weight": [0.0, 1.0, 2.0, 3.0]}
        assert {name: str(value) for name, value in told["validation"].items()} == {
            name: row[name] for name in ("average", "worst", "score")
        }
        assert told["epoch"]["loss"] == float(row["loss"])
        assert set(told["epoch"]) <= set(row) - {"epoch"}
    assert diary.pages[-1] == ("end", True)


def test_loggers_change_no_bit_of_a_run_and_one_that_fails_is_dropped(trained):
    class Failing(_Diary):
        def epoch(self, epoch: int, figures: Any) -> None:
            raise ConnectionError("the server is away")

    failing, diary = Failing(), _Diary()
    _, plain = trained("plain")
    with pytest.warns(UserWarning, match="goes on without Failing: ConnectionError: the server is away"):
        _, logged = trained("logged", failing, diary)
    for name in ("best.safetensors", "last.safetensors", "history.csv"):
        assert (plain.path / name).read_bytes() == (logged.path / name).read_bytes()
    assert [name for name, _ in failing.pages] == ["begin"]
    assert [name for name, _ in diary.pages][-1] == "end"


def test_a_training_that_stops_ends_its_loggers_and_a_resumed_one_begins_later(spec_of, tmp_path):
    spec, folder = spec_of(), RunFolder(tmp_path / "run")
    first, second = _Diary(), _Diary()

    def stop(_stage: str, done: int, _total: int, _note: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, folder, load_dataset(spec.data.name), loggers=[first], progress=stop)
    assert first.pages[-1] == ("end", False)
    train(spec, folder, load_dataset(spec.data.name), loggers=[second])
    assert second.pages[0][1].first_epoch == 1
    assert [page[0] for name, page in second.pages if name == "epoch"] == [1]


def test_tensorboard_reads_what_was_written(trained, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the optional package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    spec, folder = trained("run", *open_loggers([f"tensorboard:{tmp_path / 'events'}"]))
    events = EventAccumulator(str(tmp_path / "events" / spec.suite / spec.label / spec.run_id))
    events.Reload()
    rows = history(folder)
    for name, column in (("train/loss", "loss"), ("validation/worst", "worst"), ("train/lr", "lr")):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(number, pytest.approx(float(row[column]), rel=1e-6)) for number, row in enumerate(rows)]
    assert [event.value for event in events.Scalars("weight/3")] == [3.0, 3.0]


def test_weights_and_biases_is_called_as_its_interface_asks(trained, monkeypatch):
    calls: list[tuple[str, Any]] = []
    run = SimpleNamespace(
        log=lambda figures: calls.append(("log", figures)),
        finish=lambda exit_code: calls.append(("finish", exit_code)),
    )
    fake = SimpleNamespace(init=lambda **given: calls.append(("init", given)) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    spec, _ = trained("run", *open_loggers(["wandb:mine"]))
    given = calls[0][1]
    assert (given["project"], given["id"], given["resume"]) == ("mine", spec.run_id, "allow")
    logged = [figures for name, figures in calls if name == "log"]
    assert [figures["epoch"] for figures in logged] == [0, 0, 0, 1, 1, 1]
    assert logged[0].keys() >= {"train/loss", "train/lr"}
    assert calls[-1] == ("finish", 0)


def test_mlflow_is_called_as_its_interface_asks(trained, monkeypatch):
    calls: list[tuple[str, Any]] = []

    class Client:
        def __init__(self, tracking_uri: str | None) -> None:
            calls.append(("client", tracking_uri))

        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str) -> str:
            return f"id of {name}"

        def create_run(self, experiment_id: str, tags: Any, run_name: str) -> Any:
            calls.append(("run", (experiment_id, tags)))
            return SimpleNamespace(info=SimpleNamespace(run_id="r"))

        def log_param(self, run_id: str, key: str, value: Any) -> None:
            calls.append(("param", key))

        def log_metric(self, run_id: str, key: str, value: float, step: int) -> None:
            calls.append(("metric", (run_id, key, step)))

        def set_terminated(self, run_id: str, status: str) -> None:
            calls.append(("end", (run_id, status)))

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mlflow.tracking", SimpleNamespace(MlflowClient=Client))
    spec, _ = trained("run", *open_loggers(["mlflow:http://localhost:5000"]))
    assert calls[0] == ("client", "http://localhost:5000")
    assert calls[1][1][0] == f"id of fairbench/{spec.suite}"
    assert calls[1][1][1]["fairbench.run_id"] == spec.run_id
    assert ("param", "recipe.lr") in calls
    assert ("metric", ("r", "validation/worst", 1)) in calls
    assert ("metric", ("r", "weight/3", 0)) in calls
    assert calls[-1] == ("end", ("r", "FINISHED"))


def test_loggers_are_listed_with_the_package_that_each_needs():
    assert {name: entry.details["needs"] for name, entry in registry.loggers.scan().items() if entry.module} == {
        "mlflow": "mlflow",
        "tensorboard": "tensorboard",
        "wandb": "wandb",
    }
    shown = catalogue.describe_name(registry.loggers, "wandb")
    assert (shown["kind"], shown["needs"]) == ("logger", "wandb")


def test_loggers_are_checked_before_anything_runs(monkeypatch):
    with pytest.raises(UnknownName, match="unknown logger 'tensorbord'; did you mean 'tensorboard'"):
        check_loggers(["tensorbord:x"])
    with pytest.raises(InvalidInput, match="more than one line"):
        check_loggers(["tensorboard:x\ny"])
    monkeypatch.setattr("fairbench.train.logger.find_spec", lambda name: None)
    with pytest.raises(Missing, match=r"--log wandb needs the package wandb: pip install 'robust-fairbench\[wandb\]'"):
        check_loggers(["wandb:x"])


def test_a_logger_of_ones_own_is_registered_and_found_through_the_environment(monkeypatch):
    monkeypatch.setattr(registry.loggers, "_loaded", dict(registry.loggers._loaded))

    @fairbench.register_logger("diary-of-mine")
    class Mine(_Diary):
        def __init__(self, target: str) -> None:
            super().__init__()
            self.target = target

    check_loggers(["diary-of-mine:a:b"])
    monkeypatch.setenv(VARIABLE, "diary-of-mine:a:b\nno-such-logger")
    with pytest.warns(UserWarning, match="goes on without --log no-such-logger"):
        (found,) = open_loggers()
    assert isinstance(found, Mine)
    assert found.target == "a:b"
    monkeypatch.delenv(VARIABLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_loggers() == []
