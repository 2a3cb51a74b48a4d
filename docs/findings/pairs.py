"""The questions that pairs of methods answer: what a change of a method does to average, worst class and NSD."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from evidence import Answer, Board, Pair, altered, boards_of, cell, differences, newest_with, pair_table, table
from trainings import without_averaging

from fairbench.leaderboard.columns import ROLES
from fairbench.leaderboard.published import load_published

__all__ = ["BASES", "adaptive", "clean_cost", "elsewhere", "policies", "published", "sensitivity", "sets"]

BOARDS = ("digits", "cifar10-micro", "cifar10-small", "cifar100-micro")
ABSLD = "rslad+absld_temperatures"
VERDICTS = ("holds", "contradicted", "open", "not tested")
WIDENED = (
    " The typical variance in these tests is a root mean square over the methods of a board: a method that varies far "
    "more than the others, as the standard deviations of `fairbench leaderboard show BOARD --attack clean` show, "
    "widens the intervals of all pairs. The test was fixed before the boards, and stays."
)
# Each method against the one that its paper improves on.
BASES = {
    "rslad": "sat",
    "absld": "rslad",
    "absld_released": "rslad",
    "fair_rslad": "rslad",
    "fair_ard": "ard",
    "fair_iad": "iad",
    "fair_mtard": "mtard",
    "frl": "trades_finetuned",
    "frl_reweight": "trades_finetuned",
    "frl_remargin": "trades_finetuned",
    "dafa": "trades",
    "wat": "trades",
    "cfa_trades": "trades",
    "cfa_sat": "sat",
    "faal": "sat",
    "faal_trades": "trades",
    "bat": "trades",
    "trix": "trades",
    "fair_tat": "sat",
    "fairat": "sat",
    "ham": "sat",
    "cfol": "sat",
}


def adaptive(root: Path) -> Answer:
    """Temperatures that follow the risk against random, manual, uniform and reversed ones and none."""
    others = ("absld_uniform", "absld_random", "absld_manual", "absld_reversed")
    found = _paired(root, ("digits-ablations", *BOARDS), [("absld", other) for other in ("rslad", *others)])
    return Answer(f"{found.said}{_lacking(root, others)}", found.status, found.tables)


def sets(root: Path) -> Answer:
    """Two sets of temperatures against one, against each alone, and against the product of the released script."""
    others = ("absld_one_set", "absld_adv_only", "absld_clean_only", "absld_released")
    found = _paired(root, ("digits-ablations", *BOARDS), [("absld", other) for other in others])
    return Answer(f"{found.said}{_lacking(root, others)}", found.status, found.tables)


def policies(root: Path) -> Answer:
    """A label policy with a policy on samples against the label policy alone."""
    names = ("fair_ard_weights", "frl_weights", "wat_weights", "cfa_margins", "dafa_margins")
    return _paired(root, ("digits-ablations",), [(f"{ABSLD}+{name}", "absld") for name in names])


def sensitivity(root: Path) -> Answer:
    """ABSLD with one constant changed against ABSLD."""
    names = ("rate_fifth", "rate_half", "rate_double", "rate_constant", "bounds_narrow", "bounds_wide")
    others = [*(f"absld_{name}" for name in (*names, "clean_none", "clean_third", "clean_half")), "absld_self"]
    return _paired(root, ("digits-sensitivity",), [(other, "absld") for other in others])


def clean_cost(root: Path) -> Answer:
    """What each method does to clean accuracy, class by class, beside what it does to the robust worst class."""
    tables, firm = [], []
    for board, pairs in newest_with(root, BOARDS, [*BASES.items()]):
        classes = [name for name in board.runs.columns if re.fullmatch(r"class_\d+", name)]
        found = differences(board, pairs, ["clean"], ["average"])
        robust = differences(board, pairs, [board.strongest], ["worst"])
        rows = []
        for pair in pairs:
            one, worst = found[(*pair, "average", "clean")], robust[(*pair, "worst", board.strongest)]
            per_class = [
                (board.of(pair[0], "clean", name).mean() - board.of(pair[1], "clean", name).mean(), name[6:])
                for name in classes
            ]
            ends = [f"{round(100 * value, 1) + 0.0:+.1f} ({name})" for value, name in (min(per_class), max(per_class))]
            rows.append([f"{pair[0]} - {pair[1]}", cell(one, 100), *ends, cell(worst, 100)])
            if one.winner:
                way = "higher" if one.difference > 0 else "lower"
                firm.append(f"clean accuracy of {pair[0]} {way} than of {pair[1]} ({board.label})")
        heads = ["method - base", "clean average", "class that loses most", "class that gains most"]
        heads.append(f"worst class, {board.strongest}")
        tables.append(f"{board.label} ({board.settings}), points; Holm within each column:\n\n{table(heads, rows)}")
    answered = _answer(tables, firm, of="difference of clean averages")
    return Answer(f"{answered.said}{WIDENED}", answered.status, answered.tables) if tables else answered


def elsewhere(root: Path) -> Answer:
    """Whether the sign of what a method does to its worst class is the same on every board, and for other networks."""
    found = newest_with(root, BOARDS, [*BASES.items()])
    tables, said = [], []
    if len(found) > 1:
        text, shared, same = _side_by_side([(board.label, board, pairs) for board, pairs in found], ["pgd-20"])
        tables.append(f"Worst class under PGD-20, points; Holm within each board:\n\n{text}")
        said.append(f"Several boards have {shared} pairs; no two boards have opposite signs for {same} of them.")
    measured = False
    for board, pairs in found:
        networks = [one for one in altered(board) if _network(one) not in ("", _network(board))]
        text, shared, same = _side_by_side([(_network(one), one, pairs) for one in (board, *networks)], board.compared)
        if shared:
            measured = True
            tables.append(f"{board.label}, worst class by network, points; Holm within each network:\n\n{text}")
            said.append(
                f"On {board.label}, no two networks have opposite signs for {same} of {shared} differences; all have "
                f"the settings of {_network(board)} ({board.settings})."
            )
    if not measured:
        said.append("Other networks on one dataset: not measured.")
    return Answer(" ".join(said), "exploratory" if tables else "not measured", tuple(tables))


def _side_by_side(boards: Sequence[tuple[str, Board, Sequence[Pair]]], attacks: Sequence[str]) -> tuple[str, int, int]:
    """Return a table of the pairs that several boards have, the number of differences, and that of one sign or 0."""
    found = [differences(board, pairs, attacks, ["worst"]) for _, board, pairs in boards]
    names = [name for name, *_ in boards]
    rows, counted, same = [], 0, 0
    for pair in dict.fromkeys(pair for _, _, pairs in boards for pair in pairs):
        cells = []
        for attack in attacks:
            sides = [one.get((*pair, "worst", attack)) for one in found]
            held = [one for one in sides if one is not None]
            shared = len(held) > 1
            counted += shared
            same += shared and len({np.sign(one.difference) for one in held} - {0.0}) <= 1
            cells += ["" if one is None or not shared else cell(one, 100) for one in sides]
        if any(cells):
            rows.append([f"{pair[0]} - {pair[1]}", *cells])
    heads = [f"{name}, {attack}" if len(attacks) > 1 else name for attack in attacks for name in names]
    return table(["method - base", *heads], rows), counted, same


def _network(board: Board) -> str:
    """The network of a board's methods; empty where they have several, or where the test set chose a checkpoint."""
    students = board.runs[~board.runs["method"].isin(ROLES)]
    found = set(students["architecture"])
    return str(found.pop()) if len(found) == 1 and set(students["selection"]) == {"validation"} else ""


def published(root: Path) -> Answer:
    """Claims that papers make on CIFAR-10, and what the boards say of the same pair."""
    claims = _claims(root)
    measured = newest_with(root, BOARDS, [(method, base) for method, base, *_ in claims])
    found = [differences(board, pairs, [board.strongest], ["worst"]) for board, pairs in measured]
    rows, answers = [], set[tuple[str, str, str, str]]()  # two papers may claim the same of one pair
    for method, base, source, claimed in claims:
        cells = []
        for (board, _), on_board in zip(measured, found, strict=True):
            one = on_board.get((method, base, "worst", board.strongest))
            verdict = "not tested" if one is None or np.isnan(one.low) else _verdict(claimed, one.low, one.high)
            answers.add((verdict, method, base, board.label))
            cells.append(verdict if one is None else f"{cell(one, 100).strip('*')}: {verdict}")
        rows.append([f"{method} - {base}", source, f"{claimed:+.1f}", *cells])
    if not rows or not measured:
        return Answer("No published pair is on a board.", "not measured")
    heads = ["method - base", "source", "published", *(f"{board.label} ({board.settings})" for board, _ in measured)]
    said = (
        "A claim holds where the 95 % interval of the difference has its sign and excludes 0, is contradicted where it "
        "has the other sign, and is open else; the intervals are not corrected for their number. "
        + f"{len(claims)} claims of {len({source for _, _, source, _ in claims})} sources; what several say of one "
        + "pair counts once for each board: "
        + ", ".join(f"{[one[0] for one in answers].count(verdict)} {verdict}" for verdict in VERDICTS)
        + ". Published figures are of other networks, recipes and often of checkpoints chosen on the test set."
    )
    for board, _ in measured:
        names = without_averaging(root, board)
        if names:
            said += (
                f" On {board.label} no epoch reached the threshold of FAWA, the weight averaging of CFA, in any run of "
                f"{' and '.join(names)} (`fair_epochs` in their history.csv): there CFA was tried without it."
            )
    text = f"Worst class under the strongest attack of each source and board, points:\n\n{table(heads, rows)}"
    return Answer(said, "exploratory", (text,))


def _claims(root: Path) -> list[tuple[str, str, str, float]]:
    """Method, base, source and the published difference of worst classes under AutoAttack, else another attack."""
    rows = load_published(root / "leaderboards" / "published" / "published.csv")
    rows = rows[rows["worst"].notna() & (rows["attack"] != "clean") & (rows["dataset"] == "CIFAR-10")]
    rows = rows.assign(rank=[0 if str(attack).startswith("AutoAttack") else 1 for attack in rows["attack"]])
    found: dict[tuple[str, str, str], float] = {}
    keys = ["source", "table", "architecture", "rank", "attack"]
    for (source, _, architecture, *_), group in rows.sort_values("rank", kind="stable").groupby(keys, sort=False):
        worst = {str(row["registered"]): float(row["worst"]) for _, row in group[::-1].iterrows()}
        for method, base in BASES.items():
            if method in worst and base in worst:
                name = (method, base, f"{source}, {architecture}")
                found.setdefault(name, worst[method] - worst[base])
    return [(*name, value) for name, value in found.items()]


def _verdict(claimed: float, low: float, high: float) -> str:
    if low <= 0 <= high or claimed == 0:
        return "open"
    return "holds" if (low > 0) == (claimed > 0) else "contradicted"


def _lacking(root: Path, methods: Sequence[str]) -> str:
    """Name the methods that no board has."""
    suites = ("digits-ablations", *BOARDS)
    measured = {method for suite in suites for board in boards_of(root, suite) for method in board.methods}
    missing = [method for method in methods if method not in measured]
    return f" Not measured: {', '.join(missing)} (`fairbench run digits-ablations`)." if missing else ""


def _paired(root: Path, suites: Sequence[str], pairs: Sequence[Pair]) -> Answer:
    tables, firm = [], defaultdict[str, list[str]](list)
    for board, held in newest_with(root, suites, pairs):
        text, significant = pair_table(board, held)
        tables.append(text)
        for said, attacks in significant.items():
            firm[said].append(f"{board.label}: {', '.join(attacks)}")
    return _answer(tables, [f"{said} ({'; '.join(where)})" for said, where in firm.items()], suites)


def _answer(tables: Sequence[str], firm: Sequence[str], suites: Sequence[str] = (), of: str = "difference") -> Answer:
    if not tables:
        return Answer(f"No board of {' or '.join(suites)} has the methods.", "not measured")
    if not firm:
        return Answer(f"No {of} is significant after correction.", "exploratory", tuple(tables))
    return Answer(f"Significant after correction: {', '.join(firm)}.", "supported where bold", tuple(tables))
