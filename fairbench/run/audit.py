"""The audit of one checkpoint under many attacks: a report, its files and a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fairbench import distributed
from fairbench.attacks import Ball
from fairbench.attacks.projections import AnyNorm
from fairbench.data.dataset import Dataset, content_hash
from fairbench.data.sources import load_test
from fairbench.errors import InvalidInput
from fairbench.evaluation.evaluate import choose_attacks, evaluate
from fairbench.evaluation.exhibits import Exhibits, exhibit
from fairbench.evaluation.folder import FILES, AuditFolder, evaluation_settings, paths_of_attack
from fairbench.evaluation.identity import identity
from fairbench.evaluation.report import Report
from fairbench.files import at_home, require_writable, write_text
from fairbench.models.opening import open_model
from fairbench.registry import plugin_files
from fairbench.report.html import model as model_page
from fairbench.run.launch.progress import RunView, progress_view
from fairbench.suites.sections import ATTACKS, BATCH_SIZE

__all__ = ["audit_model"]

STANDARD = (*ATTACKS, "autoattack")


def audit_model(
    model: str,
    dataset: str,
    *,
    arch: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights: str | None = None,
    attacks: Sequence[str] | None = None,
    norm: AnyNorm = "Linf",
    eps: float = 8 / 255,
    batch_size: int = BATCH_SIZE,
    device: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    flags: bool = True,
    out: Path | None = None,
    page: Path | None = None,
    command: str = "",
) -> Report | None:
    """Evaluate a model with progress on stderr, save the report to folder `out` and write its page to `page`.

    `arch`, `mean`, `std` and `weights` are those of `open_model`; the other arguments and errors are those of
    `evaluate`. The default device is a GPU where there is one. The page quotes `command`. With `out`, a stopped
    evaluation resumes after its last batch, and a finished one is read back, if all settings that determine the
    verdicts are equal. All ranks of torchrun call this function: rank 0 does all of this, and the others judge their
    share of the images and return None.
    """
    if distributed.rank() == 0:
        files = [model.removeprefix("file:"), *dataset.partition(":")[2].split(","), *map(str, plugin_files())]
        files += [str(path) for text in attacks or () for path in paths_of_attack(text)]
        _check_outputs(out, page, files)
        for folder in (path for path in (out, page and page.parent) if path is not None):
            folder.mkdir(parents=True, exist_ok=True)
    split, class_names = load_test(dataset)
    data, ball = Dataset(dataset, split, split, class_names), Ball(norm, eps)
    network = open_model(
        model,
        arch=arch,
        num_classes=data.num_classes,
        shape=data.shape,
        class_names=class_names,
        mean=mean,
        std=std,
        weights=weights,
    )
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = choose_attacks(attacks or STANDARD, ball)
    how: dict[str, Any] = {"norm": ball.norm, "eps": ball.eps, "batch_size": batch_size, "seed": seed}
    asked: dict[str, Any] = {"attacks": chosen, "device": where, "flags": flags, "limit": limit, **how}
    if distributed.rank() > 0:
        for _ in distributed.listen():
            evaluate(network, data, **asked)
        return None
    with progress_view() as view:
        row = view.start(Path(model).name)

        def progress(stage: str, done: int, total: int) -> None:
            row.update(stage, done, total, "")

        def find(**kept: Any) -> Report:
            distributed.tell({"do": "evaluate"})
            return evaluate(network, data, progress=progress, **asked, **kept)

        if out is None:
            report = find()
        else:
            total = len(split.labels)
            part = {} if limit is None or limit >= total else {"limit": limit, "subset_of": total}
            about = evaluation_settings(network, split, class_names, chosen, device=where, **how, **part)
            report = _kept(AuditFolder(out, about, flags=flags), find, row)
        if page is not None:
            look = partial(exhibit, network, split.images, split.labels, ball, device=where, seed=seed)
            exhibits = _shown(page, partial(look, progress=progress), row)
            engine, marks = report.verdicts.engine, content_hash(class_names, split)
            told = identity(
                network, marks, command=command, engine=engine, device=where, seed=seed, batch_size=batch_size
            )
            shown = model_page.page(report, exhibits, title=Path(model).name, data=dataset, audited=told)
            write_text(page, shown)
        row.finish("done")
    distributed.tell(None)
    return report


def _shown(page: Path, find: Callable[[], Exhibits], row: RunView) -> Exhibits | None:
    """Return the exhibits of a page; None, which is said, for a model without the gradients that they need."""
    try:
        return find()
    except InvalidInput as error:
        row.say(f"{page}: without robustness by eps, flow and images: {error}")
        return None


def _check_outputs(out: Path | None, page: Path | None, inputs: Sequence[str]) -> None:
    """Raise InvalidInput, before any attack, for outputs that cannot be written or would replace another file.

    `inputs` are the files and folders that the evaluation reads, and other texts, which name none.
    """
    if out is not None:
        require_writable(out, "--out")
        if (out / "run.json").exists():
            raise InvalidInput(f"--out {out}: is the folder of a run, whose verdicts it would replace; give another")
    if page is None:
        return
    place, folder = page.resolve(), None if out is None else out.resolve()
    if page.is_dir() or (folder is not None and place in (folder, *folder.parents)):
        raise InvalidInput(f"--report {page}: is a folder; give a file, such as {page / 'report.html'}")
    if page.exists() and not page.is_file():
        raise InvalidInput(f"--report {page}: cannot be written: not a regular file")
    if page.exists() and any(_reads(at_home(text), page) for text in inputs if text):
        raise InvalidInput(f"--report {page}: is a file that this command reads; give another")
    if place.parent == folder and page.name in FILES:
        raise InvalidInput(f"--report {page}: --out keeps its own {page.name} there; give another name")
    require_writable(page.parent, "--report")


def _reads(read: Path, page: Path) -> bool:
    """Whether an input is the page, or is a folder that has it as one of its images."""
    if not read.exists():
        return False
    inside = read.resolve() in page.resolve().parents and page.suffix.lower() not in (".html", ".htm")
    return page.samefile(read) or inside


def _kept(folder: AuditFolder, find: Callable[..., Report], row: RunView) -> Report:
    """Return the stored report, or resume the evaluation and store it."""
    with folder.lock(lambda: row.update("waiting", 0, 1, "another process works in this folder")):
        report = folder.read()
        if report is not None:
            folder.sweep()
            row.say(f"{folder.path}: these settings were evaluated before; read back")
            return report
        journals = folder.journals()
        done = sum(len(batch.predicted) for journal in journals.values() for batch in journal.batches)
        if done:
            row.say(f"{folder.path}: resumes after {done} stored verdicts")
        report = find(journals=journals)
        folder.write(report)
    return report
