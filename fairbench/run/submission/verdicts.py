"""Comparison of a run's verdicts with the dataset of its suite, and with those that its weights give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fairbench.attacks import resolve
from fairbench.data import Dataset, Split, balanced_subset
from fairbench.evaluation.judge import attack_verdicts
from fairbench.models import load_checkpoint, weights_hash
from fairbench.plugins.calls import code_of_attack
from fairbench.results.folder import RunFolder
from fairbench.run.private import KINDS
from fairbench.run.submission.outcome import SubmissionOutcome
from fairbench.suites.spec import RunSpec

__all__ = ["check_verdicts"]

# Share and number of verdicts that may differ on another processor: a gradient near zero may change its sign.
MAY_DIFFER, FEW = 0.02, 2


def check_verdicts(
    outcome: SubmissionOutcome, spec: RunSpec, record: Mapping[str, Any], dataset: Dataset, *, full: bool
) -> None:
    """Compare the stored verdicts with the suite's labels and with those that the weights give; extends `outcome`."""
    folder = RunFolder(outcome.path)
    stored, test = folder.read_verdicts(), balanced_subset(dataset.test, spec.data.test_per_class)
    if not np.array_equal(stored.get("labels", np.empty(0)), test.labels):
        outcome.wrong.append("verdicts.npz has other labels than the suite's test images")
        return
    if list(record["class_names"]) != list(dataset.class_names):
        outcome.wrong.append(f"run.json has other class names than {spec.data.name}")
        return
    for kind in KINDS:
        texts = list(dict.fromkeys(text for each in record["protocols"].values() for text in each[kind]))
        absent = [text for text in texts if f"{kind}/{text}" not in stored]
        outcome.wrong.extend(f"verdicts.npz has no verdicts for {kind}/{text}" for text in absent)
        path = folder.best if kind == "best" else folder.last
        if absent or not path.is_file():
            outcome.left.extend(f"{kind}/{text}" for text in texts if text not in absent)
            continue
        model, meta = load_checkpoint(path)
        if meta.spec != spec.model:
            outcome.wrong.append(f"{path.name} holds the network {meta.spec}, not that of run.json, {spec.model}")
        elif weights_hash(model) != record["weights"][kind]:
            outcome.wrong.append(f"{path.name} holds other weights than run.json says")
        else:
            _attack(outcome, kind, texts, model, spec, test, stored, full=full)


def _attack(
    outcome: SubmissionOutcome,
    kind: str,
    texts: Sequence[str],
    model: nn.Module,
    spec: RunSpec,
    test: Split,
    stored: Mapping[str, NDArray[np.int64]],
    *,
    full: bool,
) -> None:
    """Attack a checkpoint and compare the verdicts, attack by attack."""
    for text in texts:
        key = f"{kind}/{text}"
        if text.startswith("autoattack") and not full:
            outcome.left.append(key)
        elif code_of_attack(text):
            outcome.wrong.append(f"{key} names code, which is not run")
        else:
            found = attack_verdicts(
                model,
                test.images,
                test.labels,
                [resolve(text, spec.threat)],
                batch_size=spec.evaluation.batch_size,
                seed=spec.evaluation.seed,
            )
            _compare(outcome, key, stored[key], found[text])


def _compare(outcome: SubmissionOutcome, key: str, stored: NDArray[np.int64], found: NDArray[np.int64]) -> None:
    differ = int((stored != found).sum())
    if differ > max(FEW, MAY_DIFFER * len(stored)):
        outcome.wrong.append(f"{key}: the weights give other verdicts on {differ} of {len(stored)} images")
    else:
        outcome.remade.append(key)
