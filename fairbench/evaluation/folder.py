"""The folder of one model's evaluation: what it found, what that depends on, and the verdicts so far while it runs."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fairbench.attacks import Attack
from fairbench.copies import default_engine
from fairbench.data.dataset import Split, content_hash
from fairbench.data.npz import read_arrays
from fairbench.errors import CorruptFile, InvalidInput, Missing
from fairbench.evaluation.journal import Journal
from fairbench.evaluation.verdicts import UNION, Flag, Report, Verdicts, flatten
from fairbench.files import atomic, checksum, locked, read_json, write_json
from fairbench.models.checkpoint import weights_hash
from fairbench.registry import parse_call
from fairbench.version import __version__

__all__ = ["AuditFolder", "as_dict", "describe", "save"]

# Their versions are in the settings.
_VERSIONED = ("builtins", "fairbench", "torch")


def describe(
    network: nn.Module,
    split: Split,
    class_names: tuple[str, ...],
    attacks: Sequence[Attack],
    *,
    device: str,
    **settings: Any,
) -> dict[str, Any]:
    """Return what an evaluation's verdicts depend on, JSON-ready: the same settings give the same verdicts.

    Of weights, architecture, data, and code and files of the user's they hold hashes.
    """
    architecture = re.sub(r" at 0x[0-9a-f]+", "", str(network))
    return {
        "fairbench": __version__,
        "torch": torch.__version__,
        "device": device.partition(":")[0],
        "threads": torch.get_num_threads(),
        "engine": default_engine(device),
        "weights": weights_hash(network),
        "architecture": sha256(architecture.encode()).hexdigest(),
        "data": content_hash(class_names, split),
        "attacks": [attack.text for attack in attacks],
        "files": [f"{path.name} {checksum(path)}" for path in _files(network, attacks)],
        **settings,
    }


def _files(network: nn.Module, attacks: Sequence[Attack]) -> list[Path]:
    """Return what is neither in the settings nor of a version: others' code, and files that attacks are given."""
    parts = [type(module) for module in network.modules()] + [part for attack in attacks for part in attack.parts]
    modules = {part.__module__ for part in parts if part.__module__.partition(".")[0] not in _VERSIONED}
    named = {str(getattr(sys.modules.get(name), "__file__", None)) for name in modules}
    named |= {str(value) for attack in attacks for value in parse_call(attack.text).arguments.values()}
    return [path for path in map(Path, sorted(named)) if path.is_file()]


class AuditFolder:
    """`report.json`, `verdicts.npz` and `settings.json` of a finished evaluation, `partial/` of one in flight.

    An evaluation stored under other settings is ignored and overwritten. The engine is one of the settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, flags: bool) -> None:
        self.path = path
        self.report = path / "report.json"
        self.verdicts = path / "verdicts.npz"
        self.settings = path / "settings.json"
        self.partial = path / "partial"
        self.about = settings
        self.flags = flags

    @contextmanager
    def lock(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the folder exclusively; `waiting` is called when another process holds it."""
        with locked(self.settings, waiting):
            yield

    def read(self) -> Report | None:
        """Return what a finished evaluation with these settings found; None without one, or where a file changed."""
        try:
            record = read_json(self.settings)
            if record != self._record():
                return None
            found, arrays = read_json(self.report), read_arrays(self.verdicts)
        except (Missing, CorruptFile, InvalidInput):
            return None
        texts = self.about["attacks"]
        return Report(
            Verdicts(
                arrays["labels"],
                {text: arrays[text] for text in texts},
                len(found["class_names"]),
                {text: own for text in texts if (own := _components(text, texts, arrays))},
                found["engine"],
            ),
            tuple(found["class_names"]),
            {name: Flag(**flag) for name, flag in found["flags"].items()},
            (found["threat"]["norm"], found["threat"]["eps"]),
            found["flagged_images"],
        )

    def journals(self) -> dict[str, Journal]:
        """Return the journal of each attack, by its text, with what a killed evaluation of these settings had of it."""
        return {
            text: Journal(self.partial / f"{number}.jsonl", {**self.about, "attack": text})
            for number, text in enumerate(self.about["attacks"])
        }

    def write(self, report: Report) -> None:
        """Write what was found, and then forget what was kept on the way."""
        self.settings.unlink(missing_ok=True)
        save(report, self.path)
        write_json(self.settings, self._record())
        for journal in self.partial.glob("*.jsonl"):
            journal.unlink()
        with suppress(OSError):  # never made, or holds what is not ours
            self.partial.rmdir()

    def _record(self) -> dict[str, Any]:
        """What `settings.json` says of the other files as they are."""
        sums = {path.name: checksum(path) for path in (self.report, self.verdicts) if path.exists()}
        return {"settings": self.about, "flags": self.flags, "sha256": sums}


def as_dict(report: Report) -> dict[str, Any]:
    """Every figure of a report by attack, JSON-ready: not-a-number is null."""
    figures = {
        attack: {key: _plain(value) for key, value in report.summary(attack).as_dict().items()}
        for attack in [*report.verdicts, UNION]
    }
    return {
        "betrayed_class": report.class_names[report.worst_class],
        "class_names": list(report.class_names),
        "threat": None if report.threat is None else dict(zip(("norm", "eps"), report.threat, strict=True)),
        "engine": report.verdicts.engine,
        "attacks": figures,
        "flagged_images": report.flagged,
        "flags": {name: {"value": flag.value, "red": flag.red} for name, flag in report.flags.items()},
    }


def save(report: Report, folder: Path) -> None:
    """Write `report.json`, and `verdicts.npz`: labels and what `flatten` returns of every attack."""
    write_json(folder / "report.json", as_dict(report))
    found, arrays = report.verdicts, {"labels": report.verdicts.labels}
    for text, predicted in found.items():
        components = {text: found.components.get(text, {})}
        arrays |= flatten(text, Verdicts(found.labels, {text: predicted}, found.num_classes, components))
    with atomic(folder / "verdicts.npz") as temporary, temporary.open("wb") as handle:
        compact: dict[str, Any] = arrays
        np.savez_compressed(handle, **compact)


def _components(text: str, texts: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the verdicts of an ensemble's components, by name, of the arrays of all attacks."""
    prefix = f"{text}#"
    return {key.removeprefix(prefix): one for key, one in arrays.items() if key.startswith(prefix) and key not in texts}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value
