"""Attack a board's checkpoints of seed 0 in ways that the board does not: `python docs/transfers.py digits`.

`python docs/transfers.py cifar10-micro --per-class 100` attacks the first 100 test images of every class alone.

It writes `docs/findings/transfers/SUITE-vN.csv`, a row for each method and attack: `pgd-20` as on the board,
`pgd-t-20` towards every other class, and transfer. For that, PGD-20 crafts images on every other checkpoint of the
board whose weights are kept, those of teacher and warm start included. `transfer-one` is the accuracy on the images of
the checkpoint that hurts most, which `surrogate` names; it is a sign of hidden gradients if it lies below `pgd-20`.
Under `transfer-all` an image counts only if the method classifies those of all checkpoints correctly. Images that the
method misclassifies without an attack never count.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairbench.attacks import ImageRNG, frozen, resolve
from fairbench.attacks.attack import Threat
from fairbench.data import load_test, to_unit
from fairbench.evaluation.batches import subset
from fairbench.files import write_text
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.columns import ROLES
from fairbench.models import load_checkpoint
from fairbench.results.folder import RunFolder
from fairbench.statistics.metrics import class_accuracy, union
from fairbench.suites.suite import load_suite

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("run_id", "n", "method", "attack", "average", "worst", "worst_class", "surrogate")
BATCH = 500
WHITE = ("pgd-20", "pgd-t-20")
Predictions = NDArray[np.int64]


def measure(
    models: Mapping[str, nn.Module], x: Tensor, y: Tensor, places: Tensor, threat: Threat
) -> list[dict[str, object]]:
    """Return the rows of networks by name, under images float32 [N,C,H,W] in [0,1] with labels int64 [N].

    `places`, int64 [N], are the positions of the images in the test set, on which their random starts depend.
    """
    crafted = {name: _craft("pgd-20:iterate=last", model, x, y, places, threat) for name, model in models.items()}
    rows, labels = [], y.numpy()
    for name, model in models.items():
        if name in ROLES:
            continue
        for attack in WHITE:
            rows.append(_row(name, attack, _predicted(model, _craft(attack, model, x, y, places, threat)), labels))
        natural, others = _predicted(model, x), {other: found for other, found in crafted.items() if other != name}
        held = {
            other: union(labels, {"clean": natural, other: _predicted(model, found)}) for other, found in others.items()
        }
        strongest = min(held, key=lambda other: int((held[other] == labels).sum()))
        rows.append(_row(name, "transfer-one", held[strongest], labels, strongest))
        rows.append(_row(name, "transfer-all", union(labels, held), labels))
    return rows


def _craft(attack: str, model: nn.Module, x: Tensor, y: Tensor, places: Tensor, threat: Threat) -> Tensor:
    crafted = []
    with frozen(model):
        for part in torch.arange(len(y)).split(BATCH):
            crafted.append(resolve(attack, threat).craft(model, x[part], y[part], ImageRNG(0, places[part])))
    return torch.cat(crafted)


def _predicted(model: nn.Module, x: Tensor) -> Predictions:
    with torch.no_grad():
        return np.asarray(model(x).argmax(1).numpy(), dtype=np.int64)


def _row(
    method: str, attack: str, predicted: Predictions, labels: Predictions, surrogate: str = ""
) -> dict[str, object]:
    shares = class_accuracy(labels, predicted, int(labels.max()) + 1)
    cells = (f"{np.mean(predicted == labels):.4f}", f"{shares.min():.4f}", int(shares.argmin()), surrogate)
    return dict(zip(COLUMNS[1:], (len(labels), method, attack, *cells), strict=True))


def main() -> None:
    """Measure the board of the suite's present version, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite")
    parser.add_argument("--per-class", type=int, help="test images of every class; all by default")
    chosen = parser.parse_args()
    suite = load_suite(chosen.suite)
    board = load_leaderboard(ROOT / f"leaderboards/{suite.name}/v{suite.version}.csv")
    models, ids = {}, {}
    for row in board[board["seed"] == "0"].drop_duplicates("method").itertuples():
        folder = RunFolder(ROOT / "results" / suite.name / str(row.method) / str(row.run_id))
        if folder.best.is_file():
            folder.verify()
            models[str(row.method)] = load_checkpoint(folder.best)[0].eval()
            ids[str(row.method)] = str(row.run_id)
    test = load_test(suite.data.name)[0]
    places = subset(test.labels, chosen.per_class or len(test.labels))
    rows = measure(
        models,
        to_unit(torch.from_numpy(test.images[places]).permute(0, 3, 1, 2).contiguous()),
        torch.from_numpy(test.labels[places]),
        torch.from_numpy(places),
        suite.threat,
    )
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"run_id": ids[str(row["method"])], **row} for row in rows)
    path = ROOT / f"docs/findings/transfers/{suite.name}-v{suite.version}.csv"
    path.parent.mkdir(exist_ok=True)
    write_text(path, text.getvalue())
    print(f"{path.relative_to(ROOT)}: {len(rows) // 4} methods, {len(models)} checkpoints, {len(places)} images")


if __name__ == "__main__":
    main()
