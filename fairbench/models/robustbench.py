"""RobustBench's models, from the folder in which its package `robustbench` saves them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.models.foreign import read_pickle

__all__ = ["autoattack_alias", "download_robustbench", "model_files", "open_robustbench"]

FOLDER = Path("models")


def open_robustbench(name: str, folder: Path = FOLDER) -> nn.Module:
    """Open `NAME` or `DATASET/THREAT/NAME`, by default in cifar10/Linf, from `folder`/DATASET/THREAT/NAME.pt.

    Nothing is downloaded. Raises Missing without the extra `zoo` or a file, UnknownName for a model that RobustBench
    does not list, CorruptFile for a file that does not fit or holds anything but plain weights.
    """
    dataset, threat, short = _split(name)
    package = _package()
    for path in _files(package, dataset, threat, short, folder):
        if not path.is_file():
            raise Missing(
                f"robustbench:{name}: no file {path}; put it there, or get it with: python -c "
                f"\"from fairbench.models.robustbench import download_robustbench; download_robustbench('{name}')\""
            )
        # Checked here, because robustbench opens it with all that torch.load allows: its size by fairbench's own
        # reader, and its content by torch's, which reads archives in another way.
        read_pickle(path)
        torch.load(path, map_location="cpu", weights_only=True)
    try:
        return _load(package, dataset, threat, short, folder)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        line = " ".join(str(error).split())[:200]
        raise CorruptFile(
            f"robustbench:{name}: its file in {folder} is not the one RobustBench names: {line}"
        ) from None


def model_files(name: str, folder: Path = FOLDER) -> list[Path]:
    """Return the files below `folder` of a listed model, whether they exist or not; errors as `open_robustbench`."""
    return _files(_package(), *_split(name), folder)


def download_robustbench(name: str, folder: Path = FOLDER) -> None:
    """Download a model into `folder` by robustbench; names and errors as for `open_robustbench`."""
    dataset, threat, short = _split(name)
    package = _package()
    _files(package, dataset, threat, short, folder)
    _load(package, dataset, threat, short, folder)


@contextmanager
def autoattack_alias() -> Iterator[None]:
    """Make `autoattack` and `autoattack.state` importable as pyautoattack's modules if no such package is installed.

    The names are removed afterwards, so that no other code mistakes one package for the other.
    """
    if "autoattack" in sys.modules or importlib.util.find_spec("autoattack") is not None:
        yield
        return
    names = ("autoattack", "autoattack.state")
    try:
        for name in names:
            sys.modules[name] = importlib.import_module(f"py{name}")
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def _package() -> Any:
    """Import robustbench's loader and its table of models."""
    try:
        with autoattack_alias(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of pkg_resources and of deprecated calls
            return importlib.import_module("robustbench.utils")
    except ImportError as error:
        raise Missing(f"robustbench: cannot be imported ({error}): pip install 'robust-fairbench[zoo]'") from None


def _split(name: str) -> tuple[str, str, str]:
    parts = name.split("/")
    if len(parts) not in (1, 3) or not all(parts) or ".." in parts:
        raise InvalidInput(f"robustbench:{name}: expected NAME or DATASET/THREAT/NAME, as cifar10/Linf/{parts[-1]}")
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else ("cifar10", "Linf", name)


def _files(package: Any, dataset: str, threat: str, name: str, folder: Path) -> list[Path]:
    """Return the files of a listed model; an ensemble has several."""
    tables = _lookup("dataset of RobustBench", dataset, {key.value: table for key, table in package.all_models.items()})
    models = _lookup("threat model of RobustBench", threat, {key.value: table for key, table in tables.items()})
    source = _lookup("model of RobustBench", name, models)["gdrive_id"]
    path = folder / dataset / threat / f"{name}.pt"
    if source is None:
        raise InvalidInput(f"robustbench:{name}: has no file of its own; open it by its timm name")
    return [Path(f"{path}_m{number}.pt") for number in range(len(source))] if isinstance(source, list) else [path]


def _lookup(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise UnknownName(kind, name, known)
    return known[name]


def _load(package: Any, dataset: str, threat: str, name: str, folder: Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = package.load_model(name, model_dir=folder, dataset=dataset, threat_model=threat)
    return model
