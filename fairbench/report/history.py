"""The class-wise state of a run over its epochs: temperatures, weights and margins, with a line for each class."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fairbench.errors import CorruptFile, InvalidInput, Missing
from fairbench.files import atomic, open_regular
from fairbench.results.folder import RunFolder

__all__ = ["class_state", "draw", "read_history"]

FORMATS = (".svg", ".png", ".pdf")
CLASS_COLUMN = re.compile(r"(.+)\[(\d+)\]")
CURVES = ("loss", "average", "worst")


def read_history(folder: Path) -> pd.DataFrame:
    """Read a run's `history.csv`, which has a row for each epoch; raises Missing and CorruptFile."""
    path = RunFolder(folder).history
    if not path.exists():
        raise Missing(f"{path}: no such file; is {folder} a run folder?")
    try:
        with open_regular(path) as file:
            history = pd.read_csv(file)
    except (ValueError, UnicodeDecodeError) as error:
        raise CorruptFile(f"{path}: not a history: {' '.join(str(error).split())}") from None
    if "epoch" not in history:
        raise CorruptFile(f"{path}: not a history: it has no column 'epoch'")
    return history


def class_state(history: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the class-wise state by vector name: a frame [epochs, classes] whose columns are class numbers."""
    vectors: dict[str, dict[int, pd.Series]] = {}
    for column in history.columns:
        match = CLASS_COLUMN.fullmatch(column)
        if match:
            vectors.setdefault(match[1], {})[int(match[2])] = history[column]
    return {name: pd.DataFrame(columns) for name, columns in vectors.items()}


def draw(folder: Path, picture: Path) -> list[str]:
    """Draw a run's selection curve and every class-wise vector to an SVG, PNG or PDF; returns the vectors' names.

    Raises InvalidInput for another suffix, Missing and CorruptFile for a folder that holds no run.
    """
    if picture.suffix not in FORMATS:
        raise InvalidInput(f"{picture}: a picture ends in one of {', '.join(FORMATS)}")
    record, history = RunFolder(folder).read(), read_history(folder)
    if not record:
        raise Missing(f"{folder}: no run.json; is this a run folder?")
    vectors = class_state(history)
    figure = Figure(figsize=(8, 3 * (1 + len(vectors))), layout="constrained")
    panels = figure.subplots(1 + len(vectors), 1, squeeze=False)[:, 0]
    for name in (curve for curve in CURVES if curve in history):
        panels[0].plot(history["epoch"], history[name], label=name)
    panels[0].set_title(f"{record['method']}, seed {record['seed']}: training loss and held-out robust accuracy")
    panels[0].legend()
    for panel, (name, frame) in zip(panels[1:], vectors.items(), strict=True):
        for number, label in enumerate(record["class_names"][: frame.shape[1]]):
            panel.plot(history["epoch"], frame[number], "-" if number < 10 else "--", label=label)
        panel.set_title(f"{name} by class")
        panel.legend(ncols=5, fontsize="x-small")
    panels[-1].set_xlabel("epoch")
    with atomic(picture) as temporary:
        figure.savefig(temporary, format=picture.suffix.removeprefix("."))
    return list(vectors)
