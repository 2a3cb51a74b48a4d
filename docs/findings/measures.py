"""The questions that a board answers by itself: costs, attacks, metrics, selection, what a student inherits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
from evidence import Answer, Board, altered, boards_of, signed, table
from scipy.stats import kendalltau

from fairbench.errors import FairbenchError
from fairbench.evaluation.batches import subset
from fairbench.leaderboard.columns import ROLES
from fairbench.leaderboard.ranking import ranking
from fairbench.results.folder import RunFolder, find_runs

__all__ = ["attacks", "costs", "inherited", "metrics", "selection"]

SUITES = ("digits", "cifar10-micro", "cifar10-small", "cifar100-micro")
FEW = 4  # methods below which ranks are not compared
ROUNDED = 6e-5  # a figure of four decimals is at most so far from the unrounded one
COSTS = ("forwards", "backwards", "flops", "train_seconds", "peak_memory_mb")


def costs(root: Path) -> Answer:
    """What each method costs to train, in units of SAT on the same board."""
    tables = []
    for board in _newest(root):
        frame = ranking(board.rows, by="worst")
        if "sat" not in set(frame["method"]):
            continue
        frame = frame[~frame["role"]].sort_values("flops", kind="stable")
        base = frame[frame["method"] == "sat"].iloc[0]
        rows = [
            [str(row["method"]), *(_ratio(float(row[name]), float(base[name])) for name in COSTS)]
            for _, row in frame.iterrows()
        ]
        tables.append(f"{board.label}, in units of SAT:\n\n{table(['method', *COSTS], rows)}")
    if not tables:
        return Answer("No board has SAT.", "not measured")
    said = (
        "Passes and operations are counted and exact; seconds were taken on machines with other work and only show the "
        "order of magnitude; memory is the process's peak. Trials of the tuning are not counted."
    )
    return Answer(said, "measured", tuple(tables))


def attacks(root: Path) -> Answer:
    """How ranks by worst class and by average change from PGD-20 to stronger attacks and the union."""
    tables = []
    for board in _newest(root):
        names = [name for name in board.attacks if name not in ("clean", "fgsm", "pgd-20")]
        ours = {figure: _means(board, "pgd-20", figure) for figure in ("average", "worst")}
        if len(ours["worst"]) < FEW:
            continue
        rows = []
        for name in names:
            cells = [name]
            for figure in ("average", "worst"):
                theirs = _means(board, name, figure)
                cells += [f"{100 * (theirs - ours[figure]).mean():+.1f}", *_agreement(ours[figure], theirs)]
            rows.append(cells)
        heads = ["attack", *(f"{figure}: {what}" for figure in ours for what in ("points", "tau", "largest move"))]
        tables.append(f"{board.label}, against PGD-20 ({len(ours['worst'])} methods):\n\n{table(heads, rows)}")
        tables += _transfers(root, board, heads)
    if not tables:
        return Answer("No board has enough methods.", "not measured")
    said = (
        "Points are the mean change over methods, tau is Kendall's between the two rankings, the largest move is that "
        "of a method's rank. An attack on some images of each class (`per_class`) and the union with it have their "
        "figures on these images alone. Targeted PGD and transfer are on no board; where a table has them, "
        "`docs/transfers.py` measured them on the checkpoints of seed 0. Methods that are fine-tuned from one warm "
        "start resemble each other and break each other nearly as themselves."
    )
    return Answer(said, "exploratory", tuple(tables))


def metrics(root: Path) -> Answer:
    """Whether ranks change from plain metrics to corrected ones."""
    pairs = (("worst", "worst_crossfit", False), ("worst", "true_worst", False), ("nsd", "nsd_corrected", True))
    tables = []
    for board, attack in ((one, attack) for one in _newest(root) for attack in _strong(one)):
        frame = ranking(board.rows, by="worst", attack=attack)
        frame = frame[~frame["role"]].set_index("method")
        rows = []
        for plain, corrected, rising in pairs:
            if corrected not in frame or len(frame[[plain, corrected]].dropna()) < FEW:
                continue
            held = frame[[plain, corrected]].dropna().astype(float) * (-1 if rising else 1)
            tau, moved = _agreement(held[plain], held[corrected])
            scale = 1 if rising else 100
            shift = scale * (-1 if rising else 1) * float((held[corrected] - held[plain]).mean())
            best = [_first(held[name]) for name in (plain, corrected)]
            rows.append([f"{plain}, {corrected}", f"{shift:+.{2 if rising else 1}f}", tau, moved, *best])
        if rows:
            heads = ["plain, corrected", "mean shift", "tau", "largest move", "first by plain", "first by corrected"]
            tables.append(f"{board.label}, {attack}, {len(frame)} methods:\n\n{table(heads, rows)}")
    if not tables:
        return Answer("No board has enough methods.", "not measured")
    return Answer(
        "Tau is Kendall's between the rankings by the plain and by the corrected metric; 1 means that no rank changes, "
        "and it is undefined where all methods have one figure.",
        "exploratory",
        tuple(tables),
    )


def selection(root: Path) -> Answer:
    """What selecting on the test set adds, and how far the validation score of the chosen epoch is too high."""
    tables, on_test = [], 0
    for board in _newest(root):
        for other in altered(board):
            rows = _published_rule(board, other)
            if rows:
                on_test += 1
                heads = [f"{figure}, {attack}" for attack in board.compared for figure in ("average", "worst")]
                text = table(["method", "seeds", *heads], rows)
                tables.append(f"{board.label}, selected on test less selected on validation, points:\n\n{text}")
        attack = "pgd-20:rel_step=0.25" if "pgd-20:rel_step=0.25" in board.attacks else "pgd-20"
        gaps = _optimism(root, board, attack)
        if gaps:
            lines = [
                [figure, f"{fmean(values):+.1f}", f"{min(values):+.1f}", f"{max(values):+.1f}"]
                for figure, values in gaps.items()
            ]
            text = table(["figure", "mean over methods", "least", "most"], lines)
            tables.append(
                f"{board.label}, score of the chosen epoch less the test figure under {attack}, points:\n\n{text}"
            )
    said = (
        "A table of scores compares the held-out figures of the epoch that was chosen by them, under the selection's "
        "PGD-10, with the test figures of the same weights under the attack that its heading names: PGD-20, in steps "
        "of a quarter of epsilon where the board has it so. Their difference has in it the optimism of a "
        "maximum over epochs, the weaker attack, and the noise of small held-out splits."
    )
    said += (
        " The published rule chooses the epoch on the test set (`--set selection.rule=test`), that of the teacher as "
        "well. A method without a teacher has the same training under both rules, a student another teacher. "
        "Differences are means over seeds, in brackets the lowest and the highest of a seed."
        if on_test
        else " No row was selected on the test set (`--set selection.rule=test`): the published rule is not measured."
    )
    return Answer(said, "exploratory" if tables else "not measured", tuple(tables))


def inherited(root: Path) -> Answer:
    """Whether a student's least robust classes are its teacher's: correlation over classes, beside SAT's."""
    tables = []
    for board in _newest(root):
        classes = [name for name in board.runs.columns if re.fullmatch(r"class_\d+", name)]
        if "teacher" not in board.methods or not classes:
            continue
        shape = {name: _profile(board, name, classes) for name in sorted(board.methods)}
        teacher = shape.pop("teacher")
        students = {str(name) for name in board.runs.loc[board.runs["teacher"].notna(), "method"]} - set(ROLES)
        named = [name for name in shape if name in students or name in ("sat", "trades")]
        rows = []
        for name in sorted(named, key=lambda one: -_correlation(shape[one], teacher)):
            kind = "student" if name in students else "no teacher"
            shared = "yes" if _lowest(shape[name]) & _lowest(teacher) else "no"
            rows.append([name, kind, f"{_correlation(shape[name], teacher):.2f}", shared])
        heads = ["method", "kind", "correlation with the teacher", "same worst class"]
        tables.append(f"{board.label}, {board.strongest}, {len(classes)} classes:\n\n{table(heads, rows)}")
    if not tables:
        return Answer("No board has a teacher's classes.", "not measured")
    said = (
        "Pearson's correlation over classes of robust accuracy, means over seeds. Among several worst classes of equal "
        "accuracy one that is shared is enough. SAT and TRADES learn from no teacher "
        "and share its data: what a student has beyond them may be inherited. There is no test of it here."
    )
    return Answer(said, "exploratory", tuple(tables))


def _transfers(root: Path, board: Board, heads: Sequence[str]) -> list[str]:
    """How targeted PGD and transfer change the ranks of seed 0, and whose gradients may be hidden."""
    path = root / f"docs/findings/transfers/{board.label.replace(' ', '-')}.csv"
    if not path.exists():
        return []
    found = pd.read_csv(path, dtype={"run_id": str})
    figures = {name: own.set_index("method") for name, own in found.groupby("attack", sort=False)}
    white = figures.pop("pgd-20")
    classes = sum(bool(re.fullmatch(r"class_\d+", name)) for name in board.runs.columns)
    per_class = int(found["n"].max()) // classes
    if not _same_checkpoints(root, board, white, per_class):
        return [f"`{path.relative_to(root)}` is of other checkpoints than the board's: not shown."]
    rows = []
    for name, own in figures.items():
        cells = [str(name)]
        for figure in ("average", "worst"):
            cells += [f"{100 * (own[figure] - white[figure]).mean():+.1f}", *_agreement(white[figure], own[figure])]
        rows.append(cells)
    one, direct, images = figures["transfer-one"], white["average"], int(found["n"].max())
    part = f" --per-class {per_class}" if images < board.under("pgd-20")["n"].max() else ""
    hidden = [
        f"{name} ({100 * row['average']:.1f} % by {row['surrogate']}, {100 * direct[name]:.1f} % by itself)"
        for name, row in one.iterrows()
        if row["average"] < direct[name]
    ]
    return [
        f"{board.label}, seed 0, {images} images, against PGD-20 ({len(white)} methods; `python docs/transfers.py "
        f"{board.path.parent.name}{part}`). Methods with a lower average under images of the "
        "surrogate that hurts most than under their own PGD-20, which may be a sign of hidden gradients: "
        f"{', '.join(hidden) or 'none'}.\n\n{table(heads, rows)}"
    ]


def _same_checkpoints(root: Path, board: Board, white: pd.DataFrame, per_class: int) -> bool:
    """Whether all rows are runs of the board whose verdicts give their accuracy under PGD-20 on the same images."""
    if not set(white["run_id"]) <= set(board.runs["run_id"]):
        return False
    for method, row in white.iterrows():
        verdicts = RunFolder(root / "results" / board.path.parent.name / str(method) / row["run_id"]).read_verdicts()
        chosen = subset(verdicts["labels"], per_class)
        right = verdicts["best/pgd-20"][chosen] == verdicts["labels"][chosen]
        if abs(right.mean() - row["average"]) > ROUNDED:
            return False
    return True


def _published_rule(board: Board, other: Board) -> list[list[str]]:
    """What selection on the test set adds to each method's figures; none where `other` differs in more than this."""
    keys, figures = ["method", "seed", "attack", "data_hash", "architecture", "recipe_hash"], ["average", "worst"]
    ours, theirs = (
        one.runs[(one.runs["selection"] == rule) & ~one.runs["method"].isin(ROLES)].set_index(keys)[figures]
        for one, rule in ((board, "validation"), (other, "test"))
    )
    gaps = (theirs - ours).dropna().reset_index()
    rows = []
    for method in dict.fromkeys(gaps["method"]):
        own = [gaps[(gaps["method"] == method) & (gaps["attack"] == attack)] for attack in board.compared]
        cells = [
            f"{signed(gap[figure].mean())} [{signed(gap[figure].min())}, {signed(gap[figure].max())}]"
            if len(gap)
            else ""
            for gap in own
            for figure in figures
        ]
        rows.append([str(method), str(max(map(len, own))), *cells])
    return rows


def _strong(board: Board) -> list[str]:
    """The strongest attack on all test images, and the union where that is another one."""
    return list(dict.fromkeys([board.strongest, *(name for name in board.attacks if name == "union")]))


def _newest(root: Path) -> list[Board]:
    return [boards[0] for suite in SUITES if (boards := boards_of(root, suite))]


def _means(board: Board, attack: str, figure: str) -> pd.Series[float]:
    under = board.under(attack)
    return under[~under["method"].isin(ROLES)].groupby("method")[figure].mean().dropna()


def _agreement(one: pd.Series[float], other: pd.Series[float]) -> list[str]:
    """Kendall's tau of two rankings of the same methods, and the largest move of a rank, as cells."""
    one, other = one.round(9), other.reindex(one.index).round(9)  # means of equal figures may differ by their sums
    tau = float(kendalltau(one, other).statistic)
    moves = (one.rank(ascending=False, method="min") - other.rank(ascending=False, method="min")).abs()
    largest = f"{moves.max():.0f} ({moves.idxmax()})" if moves.max() else "0"
    return ["undefined" if math.isnan(tau) else f"{tau:.2f}", largest]


def _first(figures: pd.Series[float]) -> str:
    """The method with the largest figure, or how many methods share it."""
    figures = figures.round(9)
    best = figures[figures == figures.max()].index
    return str(best[0]) if len(best) == 1 else f"{len(best)} methods tie"


def _optimism(root: Path, board: Board, attack: str) -> dict[str, list[float]]:
    """Held-out less test figure of each method's runs, points, by figure; from histories, where they are at hand."""
    under = board.under(attack).drop_duplicates("run_id").set_index("run_id")
    found: dict[str, dict[str, list[float]]] = {"average": {}, "worst": {}}
    for folder, record in find_runs(root / "results", board.path.parent.name):
        if record["run_id"] not in under.index or record["method"] in ROLES:
            continue
        try:
            rows = [row for row in folder.read_history() if row.get("score") not in (None, "")]
        except FairbenchError:
            continue
        if rows:
            chosen = max(rows, key=lambda row: float(row["score"]))
            for figure, gaps in found.items():
                test = float(under.loc[record["run_id"], figure])
                gaps.setdefault(record["method"], []).append(100 * (float(chosen[figure]) - test))
    return {figure: [fmean(values) for values in gaps.values()] for figure, gaps in found.items() if gaps}


def _lowest(figures: Sequence[float]) -> set[int]:
    return {number for number, figure in enumerate(figures) if figure == min(figures)}


def _profile(board: Board, method: str, classes: Sequence[str]) -> list[float]:
    return [float(board.of(method, board.strongest, name).mean()) for name in classes]


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if np.std(one) > 0 and np.std(other) > 0 else math.nan


def _ratio(value: float, base: float) -> str:
    return f"{value / base:.2f}" if base else ""
