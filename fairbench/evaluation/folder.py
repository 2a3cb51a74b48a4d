"""The folder of one model's evaluation: its report, the settings that determine it, and its partial verdicts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fairbench.attacks import Attack
from fairbench.copies import default_engine
from fairbench.data.dataset import Split, content_hash
from fairbench.errors import CorruptFile, InvalidInput, Missing
from fairbench.evaluation.journal import Journal
from fairbench.evaluation.report import Report
from fairbench.evaluation.store import read_verdicts, unpack
from fairbench.evaluation.verdicts import Flag
from fairbench.files import checksum, locked, named_file, read_json, refuse_links, write_json
from fairbench.models.checkpoint import weights_hash
from fairbench.plugins.calls import parse_call
from fairbench.plugins.source import own_files
from fairbench.version import __version__

__all__ = ["FILES", "AuditFolder", "evaluation_settings", "paths_of_attack"]

FILES = ("report.json", "verdicts.npz", "settings.json")


def evaluation_settings(
    network: nn.Module,
    split: Split,
    class_names: tuple[str, ...],
    attacks: Sequence[Attack],
    *,
    device: str,
    **settings: Any,
) -> dict[str, Any]:
    """Return the settings that determine an evaluation's verdicts, JSON-ready: equal settings give equal verdicts.

    Weights, architecture, data, and the user's own code and files are represented by hashes.
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
    """Return the files that no version number identifies: the user's own code, and files passed to attacks."""
    parts = [type(module) for module in network.modules()] + [part for attack in attacks for part in attack.parts]
    named = {path for attack in attacks for path in paths_of_attack(attack.text) if path.is_file()}
    return sorted(named.union(own_files(parts)))


def paths_of_attack(text: str) -> list[Path]:
    """Return what an attack's arguments name, read as paths as `open_model` reads them; most are no files."""
    return [named_file(str(value)) for value in parse_call(text).arguments.values()]


class AuditFolder:
    """FILES of a finished evaluation; `partial/` of an unfinished one.

    An evaluation stored under other settings is ignored and overwritten. The engine is one of the settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, flags: bool) -> None:
        self.path = path
        self.report, self.verdicts, self.settings = (path / name for name in FILES)
        self.partial = path / "partial"
        self.about = settings
        self.flags = flags

    @contextmanager
    def lock(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the folder exclusively; `waiting` is called when another process holds it."""
        refuse_links(self.partial, levels=1)
        with locked(self.settings, waiting):
            yield

    def read(self) -> Report | None:
        """Return the stored report of these settings; None when there is none or when a file of it changed."""
        try:
            record = read_json(self.settings)
            if record != self._record():
                return None
            found, arrays = read_json(self.report), read_verdicts(self.verdicts)
        except (Missing, CorruptFile, InvalidInput):
            return None
        return Report(
            replace(unpack(arrays, self.about["attacks"], len(found["class_names"])), engine=found["engine"]),
            tuple(found["class_names"]),
            {name: Flag(**flag) for name, flag in found["flags"].items()},
            (found["threat"]["norm"], found["threat"]["eps"]),
            tuple(found.get("remarks", ())),
            found["flagged_images"],
            self.about.get("subset_of"),
            data=found.get("data_hash", ""),
        )

    def journals(self) -> dict[str, Journal]:
        """Return a journal per attack, by the attack's text, with the verdicts that a killed evaluation of these
        settings stored.
        """
        return {
            text: Journal(self.partial / f"{number}.jsonl", {**self.about, "attack": text})
            for number, text in enumerate(self.about["attacks"])
        }

    def write(self, report: Report) -> None:
        """Write the report and delete the partial verdicts."""
        report.save(self.path)
        write_json(self.settings, self._record())
        for journal in self.partial.glob("*.jsonl"):
            journal.unlink()
        self._remove_empty_partial()

    def sweep(self) -> None:
        """Delete the partial verdicts of these settings, which a process left that was killed after `write`.

        Those of an unfinished evaluation under other settings stay.
        """
        for journal in self.journals().values():
            if journal.batches:
                journal.remove()
        self._remove_empty_partial()

    def _remove_empty_partial(self) -> None:
        with suppress(OSError):  # it does not exist, or it holds other files
            self.partial.rmdir()

    def _record(self) -> dict[str, Any]:
        """The content of `settings.json`, with checksums of the other files."""
        sums = {path.name: checksum(path) for path in (self.report, self.verdicts) if path.exists()}
        return {"settings": self.about, "flags": self.flags, "sha256": sums}
