"""A benchmark small enough to run in a test: four classes of 8x8 images, two epochs, real attacks."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fairbench import registry

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which is why it stands here

if "PYTEST_XDIST_WORKER" in os.environ and "OMP_NUM_THREADS" not in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start: the workers share the cores
    torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

CLASSES = 4


def _images(rng: np.random.Generator, per_class: int) -> dict[str, np.ndarray]:
    """Noise with one quadrant brighter, the less so the higher the class: the classes are not equally hard."""
    labels = np.arange(CLASSES * per_class) % CLASSES
    images = rng.integers(0, 140, (len(labels), 8, 8, 1))
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += 110 - 20 * label
    return {"images": images.astype(np.uint8), "labels": labels}


REGISTRIES = [table for table in vars(registry).values() if isinstance(table, registry.Registry)]
PLUGIN = "fairbench_plugin_"  # what the module names of single files begin with


@pytest.fixture(autouse=True)
def _registrations_end_with_their_test() -> Iterator[None]:
    """Remove plug-in files and names that a test registers after it.

    Names that modules of the package register are kept: such a module is imported, and registers, only once.
    """
    files, modules = dict(registry._plugin_files), set(sys.modules)
    names = {table: set(table._loaded) for table in REGISTRIES}
    yield
    for module in [name for name in sys.modules.keys() - modules if name.startswith(PLUGIN)]:
        del sys.modules[module]
    registry._plugin_files.clear()
    registry._plugin_files.update(files)
    added = {table: table._loaded.keys() - names[table] for table in REGISTRIES}
    if any(added.values()):
        package = {
            getattr(module, "__file__", "") for name, module in sys.modules.items() if name.startswith("fairbench.")
        }
        for table, new in added.items():
            for name in new:
                if table._source[name] not in package:
                    del table._loaded[name], table._details[name], table._source[name]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch, as a worker has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def own_handlers() -> Iterator[None]:
    """Restore the signal handlers that a command in this process replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def fairbench(own_handlers, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Return `fairbench(*arguments) -> (code, stdout, stderr)`: the command line in this process."""
    from fairbench import cli

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fairbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def tiny(make_suite: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML file of the tiny suite."""
    return make_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="session")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A student's specification, and the results of its teacher and itself; to be read and copied, not changed."""
    from tiny_runs import tiny_specs

    from fairbench.run.pipeline import execute_run

    results = tmp_path_factory.mktemp("finished")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    specs = tiny_specs(tiny)
    for spec in specs:
        execute_run(spec, results)
    torch.set_num_threads(threads)
    return specs[-1], results


@pytest.fixture(scope="session")
def make_suite() -> Callable[..., Path]:
    """Return `make(folder, **changes) -> path of the YAML file`; `changes` replace whole fields of the suite."""

    def make(folder: Path, **changes: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        for split, per_class in (("train", 24), ("test", 10)):
            np.savez(folder / f"{split}.npz", **_images(rng, per_class))
        tree = {
            "name": "tiny",
            "data": {
                "name": f"npz:{folder}/train.npz,{folder}/test.npz",
                "validation_per_class": 5,
                "method_per_class": 4,
            },
            "model": "small-cnn:width=4,batchnorm=true",
            "teacher": {"method": "trades", "recipe": {"epochs": 1}},
            "threat": {"eps": 0.1},
            "recipe": {"epochs": 2, "batch_size": 16, "lr": 0.1, "crop_padding": 1, "flip": False, "attack_steps": 3},
            "selection": {"attack": "pgd-5:rel_step=0.5"},
            "evaluation": {"best": ["clean", "pgd-10:rel_step=0.25"], "last": ["clean"], "batch_size": 40},
            "methods": ["sat", "absld"],
            "quick": {"recipe.epochs": 1, "evaluation.best": ["clean"], "evaluation.last": ["clean"]},
        }
        path = folder / "tiny.yaml"
        path.write_text(yaml.safe_dump({**tree, **changes}), encoding="utf-8")
        return path

    return make
