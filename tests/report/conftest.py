"""A real browser, which opens pages from the disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairbench.leaderboard.board import write_leaderboards
from fairbench.leaderboard.columns import COLUMNS, COSTS, ENDS, FIGURES, SCHEMA

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Visit:
    """An open page (playwright's Page), the messages on its console, and its requests for other files."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium; skips where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """Return `visit(path, width=1280, dark=False) -> Visit`, which opens a file and lets it settle."""
    contexts = []

    def open_file(path: Path, *, width: int = 1280, dark: bool = False) -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        found = Visit(context.new_page())
        own = path.resolve().as_uri()
        found.page.on("console", lambda message: found.errors.append(message.text))
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        found.page.on(
            "request",
            lambda request: (
                None if request.url == own or request.url.startswith("data:") else found.requests.append(request.url)
            ),
        )
        found.page.goto(own)
        found.page.wait_for_load_state("networkidle")
        return found

    yield open_file
    for context in contexts:
        context.close()


Accuracies = Mapping[str, Mapping[int, Mapping[str, Sequence[float]]]]


@pytest.fixture(scope="session")
def write_board() -> Callable[..., Path]:
    """Return `write(path, {method: {seed: {attack: class accuracies}}}, **cells) -> path`: 20 images a class.

    Figures follow from the accuracies, intervals are a tenth to both sides; `cells` replace columns in every row.
    """

    def write(path: Path, accuracies: Accuracies, **cells: Any) -> Path:
        rows: list[dict[str, Any]] = []
        for (method, runs), place in zip(accuracies.items(), range(len(accuracies)), strict=True):
            for attack in next(iter(runs.values())):
                own = [_board_row(method, seed, attack, shares[attack], place) | cells for seed, shares in runs.items()]
                numeric = [name for name in own[0] if name in (*FIGURES, *COSTS) or name.startswith("class_")]
                values = np.array([[row[name] for name in numeric] for row in own])
                over = {"seeds": len(own), "run_id": "", "worst_class": ""}
                spread = values.std(axis=0, ddof=1) if len(own) > 1 else np.full(len(numeric), np.nan)
                rows += own
                for seed, cells_over in (("mean", values.mean(axis=0)), ("std", spread)):
                    figures = dict(zip(numeric, cells_over, strict=True)) | dict.fromkeys(ENDS, np.nan)
                    rows.append(own[0] | over | {"seed": seed} | figures)
        shares = [name for name in rows[0] if re.fullmatch(r"(n_)?class_\d+", name)]
        columns = [name for column in COLUMNS for name in (shares if column == "classes" else [column])]
        write_leaderboards({path: columns}, rows)
        return path

    return write


def _board_row(method: str, seed: int, attack: str, shares: Sequence[float], place: int) -> dict[str, Any]:
    average, worst, deviation = float(np.mean(shares)), min(shares), float(np.std(shares))
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "x")
    row |= {"schema": SCHEMA, "suite": "tiny", "protocol": "p", "method": method, "base": "trades", "policies": ""}
    row |= {"provenance": "code", "seed": str(seed), "seeds": 1, "checkpoint": "best", "selection": "validation"}
    row |= {"attack": attack, "n": 20 * len(shares), "average": average, "worst": worst, "flags": "none"}
    for name, value in (("average", average), ("worst", worst)):
        row |= {f"{name}_lo": max(0.0, value - 0.1), f"{name}_hi": min(1.0, value + 0.1)}
    row |= {"worst_class": str(shares.index(worst)), "worst_crossfit": worst, "worst10": worst}
    row |= {"nsd": deviation / average, "nsd_corrected": deviation / average, "gap": max(shares) - worst, "gini": 0.0}
    row |= {"quick": False, "dirty": False, "threads": 1, "device": "cpu", "precision": "float32"}
    row |= dict.fromkeys(COSTS, 1000.0 * (1 + place)) | {"run_id": f"run-{place}-{seed}"}
    return row | {f"class_{c}": v for c, v in enumerate(shares)} | {f"n_class_{c}": 20 for c in range(len(shares))}
