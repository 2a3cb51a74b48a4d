"""What this machine offers and what is missing, each with the command that gets it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from fairbench import registry
from fairbench.errors import FairbenchError
from fairbench.provenance import package_versions, processor

__all__ = ["examine", "render"]

KERNELS = "plain PyTorch; Triton kernels do not exist yet, and nothing was verified on GPU hardware"


def examine() -> dict[str, Any]:
    """Look at versions, devices, data sets, output folder and conflicts; imports torch, changes nothing."""
    return {
        "versions": package_versions(),
        "devices": _devices(),
        "kernels": KERNELS,
        "data": {name: _data(name) for name in registry.datasets.names()},
        "output": _output(Path("fairbench-out")),
        "problems": _problems(),
    }


def render(facts: dict[str, Any]) -> str:
    """Write an examination as text, problems last."""
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines.append(f"{key}:")
            lines += [f"  {name}: {text}" for name, text in value.items()]
        elif isinstance(value, list):
            lines.append(f"{key}: {'none' if not value else ''}".rstrip())
            lines += [f"  {text}" for text in value]
        else:
            lines.append(f"{key}: {value}")
    return "\n".join(lines)


def _devices() -> dict[str, str]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cpu": f"{processor()}, {cores} cores, {torch.get_num_threads()} threads in use"}
    if not torch.cuda.is_available():
        build = f"this torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "this torch has no CUDA"
        return {**found, "cuda": f"no device ({build})"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return found


def _data(name: str) -> str:
    from fairbench.data import load_dataset

    try:
        data = load_dataset(name)
    except FairbenchError as error:
        return str(error)
    return f"{len(data.train)} training and {len(data.test)} test images, {data.num_classes} classes"


def _output(folder: Path) -> str:
    parent = folder if folder.is_dir() else Path()
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}; give --out"
    return f"{folder} can be written, {shutil.disk_usage(parent).free / 2**30:.1f} GiB free"


def _problems() -> list[str]:
    problems = []
    try:
        other = distribution("fairbench")
        problems.append(
            f"the distribution fairbench {other.version} from PyPI is installed, another project with the same import "
            "name: pip uninstall fairbench robust-fairbench, then install robust-fairbench again"
        )
    except PackageNotFoundError:
        pass
    if importlib.util.find_spec("fairbench.methods") is None:
        problems.append("fairbench.methods is not installed: a bare checkout needs pip install -e .")
    return problems
