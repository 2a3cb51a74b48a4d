"""`verdicts.npz`: the labels, and the class predicted for every image under every attack, as one file of arrays.

A run folder and the folder of a single evaluation hold the same file. A key is an attack's text, after the checkpoint's
kind in a run folder (`best/pgd-20`), and `<key>#<component>` for a component of an ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairbench.data.npz import read_arrays
from fairbench.errors import CorruptFile, InvalidInput
from fairbench.evaluation.verdicts import Verdicts
from fairbench.files import atomic

__all__ = ["pack", "read_verdicts", "unpack", "write_verdicts"]

IntArray = NDArray[np.int64]


def pack(verdicts: Verdicts, kind: str = "") -> dict[str, IntArray]:
    """Return verdicts as int64 [N] arrays by key; `kind`, if given, precedes each attack's text."""
    arrays: dict[str, IntArray] = {}
    for text, predicted in verdicts.items():
        key = f"{kind}/{text}" if kind else text
        arrays[key] = predicted
        arrays |= {f"{key}#{name}": one for name, one in verdicts.components.get(text, {}).items()}
    return arrays


def unpack(arrays: Mapping[str, IntArray], attacks: Sequence[str], num_classes: int) -> Verdicts:
    """Return the verdicts that `pack` packed without a kind, in the order of `attacks`; raises KeyError."""
    components = {
        text: {
            key.removeprefix(f"{text}#"): one
            for key, one in arrays.items()
            if key.startswith(f"{text}#") and key not in attacks
        }
        for text in attacks
    }
    return Verdicts(
        arrays["labels"],
        {text: arrays[text] for text in attacks},
        num_classes,
        {text: own for text, own in components.items() if own},
    )


def write_verdicts(path: Path, labels: IntArray, predicted: Mapping[str, IntArray]) -> None:
    """Write `labels` [N] and packed verdicts, [N] each, as int16, or as int64 if a class number needs it."""
    arrays = {"labels": np.asarray(labels), **predicted}
    largest = max((int(array.max(initial=0)) for array in arrays.values()), default=0)
    kind = np.int16 if largest <= np.iinfo(np.int16).max else np.int64
    compact: dict[str, Any] = {key: np.asarray(array, kind) for key, array in arrays.items()}
    with atomic(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, **compact)


def read_verdicts(path: Path) -> dict[str, IntArray]:
    """Return the arrays of a file by key, int64 [N] each; raises CorruptFile, and Missing if there is no file."""
    try:
        found = read_arrays(path, growth=2)  # int16 in the file, int64 in memory
    except InvalidInput as error:
        raise CorruptFile(str(error), path) from None
    labels = found.get("labels")
    for key, array in found.items():
        if array.dtype.kind not in "iu" or array.ndim != 1 or labels is None or len(array) != len(labels):
            raise CorruptFile(f"{path}: {key!r:.80} is not one class for each labelled image", path)
    return {key: array.astype(np.int64) for key, array in found.items()}
