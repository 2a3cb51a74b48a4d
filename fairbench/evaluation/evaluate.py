"""Evaluation of a model on a dataset under attacks: the entry point `evaluate`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fairbench import distributed
from fairbench.attacks import Attack, Ball, Threat, remembered_copies, resolve
from fairbench.attacks.projections import AnyNorm
from fairbench.copies import Engine
from fairbench.data.dataset import Dataset
from fairbench.errors import InvalidInput
from fairbench.evaluation.edge import as_module
from fairbench.evaluation.flags import SUBSET, raise_flags
from fairbench.evaluation.identity import call_text, data_hash, identity
from fairbench.evaluation.journal import Journal
from fairbench.evaluation.judge import AttackProgress, whole_number
from fairbench.evaluation.pixels import Pixels, as_tensor
from fairbench.evaluation.remarks import look_over
from fairbench.evaluation.report import Report
from fairbench.evaluation.sample import Sample, open_sample
from fairbench.evaluation.shards import sharded_verdicts
from fairbench.evaluation.verdicts import UNION, Flag
from fairbench.models.opening import open_model
from fairbench.suites.sections import ATTACKS, BATCH_SIZE

__all__ = ["choose_attacks", "evaluate"]


def evaluate(
    model: nn.Module | Callable[[Tensor], Tensor] | str | Path,
    dataset: str | Dataset | tuple[Pixels, ArrayLike] | Iterable[Any],
    *,
    attacks: Sequence[str | Attack] | None = None,
    norm: AnyNorm | float | str = "Linf",
    eps: float | str = 8 / 255,
    batch_size: int = BATCH_SIZE,
    device: str | torch.device | None = None,
    seed: int = 0,
    limit: int | None = None,
    flags: bool = True,
    engine: Engine | None = None,
    progress: AttackProgress | None = None,
    journals: Mapping[str, Journal] | None = None,
) -> Report:
    """Attack a model and report its robust accuracy, class by class.

    `model` maps images in [0,1] to logits: a module, another callable, or a name that `open_model` opens. `dataset` is
    a name, `npz:...`, a Dataset (its test split is used), a pair of images and labels, a DataLoader or torch Dataset of
    such pairs, or a Hugging Face dataset with an image and a label column. Images are uint8, or float in [0,1]: NumPy
    arrays [N,H,W,C], tensors [N,C,H,W], or lists of either. The other order of axes is recognised if the shape and the
    model leave no doubt. `limit` takes a class-balanced subset of at most that many images, which the report's
    `subset_of` marks.

    `attacks` are names with arguments, by default ATTACKS; "autoattack" adds the standard attack of the field, which
    costs hundreds of times as much. "union" may be named and is always reported. `norm` is "Linf", "L2" or "L1" (or
    np.inf, 2, 1), `eps` a number or a fraction such as "8/255". With `flags`, the sanity checks of
    `fairbench.evaluation.flags` run on a class-balanced subset. `engine`, `progress` and `journals` are those of
    `attack_verdicts`. Peculiarities of the model and the images are listed in the report's `remarks` and issued as
    warnings. Threads that evaluate at the same time wait for each other. Inside `fairbench.distributed.joined` all
    ranks make the same call, share the images and get the same report. Raises InvalidInput and UnknownName.
    """
    ball = Ball(norm, eps)  # type: ignore[arg-type]
    batch_size, seed = whole_number("batch_size", batch_size), whole_number("seed", seed)
    sample = open_sample(dataset, limit)
    module, labels = _open(model, sample), sample.labels
    if device is None and isinstance(model, str | Path):
        device = "cuda" if torch.cuda.is_available() else "cpu"
    images, remarks = look_over(module, sample.images, labels, device, sample.names)
    for remark in remarks if distributed.rank() == 0 else ():
        warnings.warn(remark, stacklevel=2)
    with remembered_copies(engine):
        verdicts = sharded_verdicts(
            module,
            images,
            labels,
            choose_attacks(ATTACKS if attacks is None else attacks, ball),
            batch_size=batch_size,
            device=device,
            seed=seed,
            engine=engine,
            progress=progress,
            journals=journals,
        )
        class_names = sample.names(verdicts.num_classes)
        found = {}
        if flags:
            if distributed.rank() == 0:
                found = raise_flags(module, images, labels, ball, device=device, seed=seed, engine=engine)
            told = distributed.exchange({name: asdict(flag) for name, flag in found.items()})[0]
            found = {name: Flag(**flag) for name, flag in told.items()}
    flagged = min(SUBSET, len(verdicts.labels)) if flags else 0
    how: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
    asked = call_text(model, dataset, attacks=list(verdicts), norm=ball.norm, eps=ball.eps, **how, limit=limit)
    data = data_hash(images, labels, class_names)
    audited = identity(module, data, command=asked, engine=verdicts.engine, device=device, **how)
    threat = (ball.norm, ball.eps)
    return Report(verdicts, class_names, found, threat, remarks, flagged, sample.subset_of, audited, data)


def choose_attacks(attacks: str | Sequence[str | Attack], threat: Threat) -> list[Attack]:
    """Return the attacks named, each once; "union" needs no naming. Raises what `resolve` raises."""
    named = [attacks] if isinstance(attacks, str) else list(attacks)
    for attack in named:
        if not isinstance(attack, str | Attack):
            raise InvalidInput(f"an attack is a name such as 'pgd-20', not {attack!r:.80}")
    found = [attack if isinstance(attack, Attack) else resolve(attack, threat) for attack in named if attack != UNION]
    return list({attack.text: attack for attack in found}.values())


def _open(model: nn.Module | Callable[[Tensor], Tensor] | str | Path, sample: Sample) -> nn.Module:
    if not isinstance(model, str | Path):
        return as_module(model)
    _, *shape = as_tensor(sample.images).shape
    names = sample.class_names if sample.declared else None
    classes = len(names) if names else None
    return open_model(model, num_classes=classes, shape=(shape[0], shape[1], shape[2]), class_names=names)
