"""A report on this machine: versions, devices, datasets and disk, and how to get what is missing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fairbench.data.sources import find_datasets
from fairbench.errors import FairbenchError
from fairbench.report.text.width import beside
from fairbench.results.provenance import package_versions, processor
from fairbench.run.launch.mps import CONTROL

__all__ = ["examine", "render_doctor"]

DISTRIBUTION = "robust-fairbench"
NAMESAKE = "fairbench"
OUT = Path("fairbench-out")
DEVELOPER = ("bench", "dev", "docs", "test")  # extras of those who change fairbench itself
KERNELS = "plain PyTorch kernels on a CPU; on CUDA Triton's, which passed their tests on an H100"

NO_COMPILER = "none: attacks on a CPU are slower"
NO_MPS = f"{CONTROL} is not installed: the runs of --jobs take turns on a GPU"


def examine() -> dict[str, Any]:
    """Return the findings, JSON-ready; `problems` are sentences that say what to do.

    Nothing is downloaded, and nothing is left on the disk.
    """
    facts: dict[str, Any] = {
        "versions": package_versions(),
        "python": sys.executable,
        "system": f"{platform.system()} {platform.release()}, {processor()}",
        "torch": _torch(),
        "kernels": KERNELS,
        "compiler": _compiler(),
        "mps": shutil.which(CONTROL),
        "datasets": find_datasets(),
        "extras": _extras(),
        "output": _output(),
    }
    return facts | {"problems": list(_problems(facts))}


def render_doctor(facts: dict[str, Any]) -> str:
    """Write the facts as text, problems last, without the extras of developers."""
    torch, output = facts["torch"], facts["output"]
    devices = [f"CPU, torch threads: {torch.get('threads', '?')}, cores: {torch['cores']}", *torch.get("devices", [])]
    build = torch.get("error") or (f"built for CUDA {torch['cuda']}" if torch["cuda"] else "built for the CPU alone")
    if torch.get("cuda") and not torch["devices"]:
        build += ", but sees no CUDA device: everything runs on the CPU"
    sharing = [beside(f"  {'MPS':<16}", facts["mps"] or NO_MPS)] if torch.get("devices") else []
    lines = [
        *_section("versions", facts["versions"]),
        *_section("machine", {"system": facts["system"], "python": facts["python"], "torch": build}),
        *(beside(f"  {'device':<16}", device) for device in devices),
        beside(f"  {'kernels':<16}", facts["kernels"]),
        beside(f"  {'C compiler':<16}", facts["compiler"] or NO_COMPILER),
        *sharing,
        *_section("datasets", facts["datasets"]),
        *_section("extras", {name: one["found"] for name, one in facts["extras"].items() if name not in DEVELOPER}),
        *_section(
            "output", {"folder": output["folder"], "state": f"{output['state']}, {output['free_gb']:.1f} GB free"}
        ),
        "",
    ]
    if facts["problems"]:
        lines += ["problems", *(beside("  - ", problem) for problem in facts["problems"])]
    else:
        lines.append("no problems found")
    return "\n".join(lines).lstrip("\n")


def _torch() -> dict[str, Any]:
    """Return threads, cores and devices that torch sees; `error` where torch cannot be imported."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"cores": cores, "error": f"cannot be imported: {' '.join(str(error).split())[:200]}"}
    found: dict[str, Any] = {"cores": cores, "threads": torch.get_num_threads(), "cuda": torch.version.cuda}
    devices = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(number)
        gigabytes = device.total_memory / 1e9
        devices.append(f"cuda:{number}, {device.name}, {gigabytes:.0f} GB, capability {device.major}.{device.minor}")
    return found | {"devices": devices}


def _compiler() -> str | None:
    try:
        from fairbench.copies.native import compiler
    except (ImportError, OSError):  # torch is missing, which `_torch` reports
        return None
    command = compiler()
    return None if command is None else " ".join(command)


def _extras() -> dict[str, dict[str, str]]:
    """Return the optional extras by name: the missing packages of each, and the command that installs them."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}
    missing: dict[str, list[str]] = {}
    for requirement in requirements:
        name, extra = re.match(r"[\w.\-]+", requirement), re.search(r"extra == ['\"]([\w\-]+)['\"]", requirement)
        if name and extra:
            lacking = missing.setdefault(extra[1], [])
            lacking += [] if _installed(name[0]) else [name[0]]
    return {
        extra: {
            "found": f"missing {', '.join(names)}; install with: {_install(extra)}" if names else "installed",
            "install": _install(extra),
        }
        for extra, names in sorted(missing.items())
    }


def _install(extra: str) -> str:
    return f"{Path(sys.executable).name} -m pip install '{DISTRIBUTION}[{extra}]'"


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _output() -> dict[str, Any]:
    """Return whether `./fairbench-out`, or the folder in which it would be made, is writable, and its free space."""
    folder = OUT.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            state = "writable" if existing == folder else f"will be made in {existing}"
    except OSError as error:
        state = f"not writable: {error.strerror}"
    return {"folder": str(folder), "state": state, "free_gb": shutil.disk_usage(existing).free / 1e9}


def _problems(facts: dict[str, Any]) -> Iterator[str]:
    python = Path(sys.executable).name
    namesake = _installed(NAMESAKE)
    if namesake:
        yield (
            f"the distribution {NAMESAKE} {namesake} from PyPI is another project with the same import name, and its "
            f"files mix with ours: {python} -m pip uninstall {NAMESAKE}, then "
            f"{python} -m pip install --force-reinstall --no-deps {DISTRIBUTION}, or use an environment for each"
        )
    if find_spec("fairbench.methods") is None:
        yield f"this is a bare checkout, whose methods are not found: {python} -m pip install -e ."
    if "error" in facts["torch"]:
        yield f"torch {facts['torch']['error']}; {python} -m pip install --force-reinstall torch"
    if facts["output"]["state"].startswith("not writable"):
        yield f"{facts['output']['folder']} is {facts['output']['state']}; choose another folder with --out"
    if facts["output"]["free_gb"] < 1:
        yield f"less than 1 GB is free for {facts['output']['folder']}; checkpoints of large networks may not fit"
    yield from _unreadable()


def _unreadable() -> Iterator[str]:
    """Yield a sentence for each plug-in that cannot be read and for each name that two plug-ins register."""
    from fairbench.registry import methods

    try:
        yield from map(str, methods.rivals())
    except FairbenchError as error:
        yield str(error)


def _section(title: str, rows: dict[str, str]) -> list[str]:
    width = max([14, *map(len, rows)]) + 2
    return ["", title, *(beside(f"  {name:<{width}}", text) for name, text in rows.items())] if rows else []
