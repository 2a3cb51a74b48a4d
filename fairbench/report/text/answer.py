"""The result of a benchmark in one sentence, and the commands to run next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.merge import YOURS
from fairbench.leaderboard.ranking import attack_on_all_images, ranking
from fairbench.statistics.significance import MIN_SEEDS

__all__ = ["beyond_the_union", "next_steps", "placed", "sentence"]

DEFAULT_OUT = "fairbench-out"


def sentence(frame: pd.DataFrame) -> str:
    """Say which method leads a `ranking`, with which worst class, and which others are not significantly behind."""
    students = frame[~frame["role"]]
    if students.empty:
        return "No method to rank: the board has teachers and warm starts only."
    ranked = students[students["rank"].notna()]
    if ranked.empty:
        return f"Not ranked. {_highest(students)}"
    first = ranked.iloc[0]
    ties = list(ranked.loc[ranked["rank"] == first["rank"], "method"])
    if len(ranked) == 1:
        return f"{first['method']}: worst class {_worst(first)}; no other method is ranked."
    shared = _common(ranked[ranked["rank"] == first["rank"]])
    if len(ties) == len(ranked):
        return f"No method leads: the worst class of each of the {len(ranked)} methods has {shared}."
    leads = f"{ties[0]} leads" if len(ties) == 1 else f"{_listed(ties)} lead"
    return f"{leads}: worst class {shared}; {_behind(ranked, len(ties))}."


def _highest(students: pd.DataFrame) -> str:
    """Say which of several unranked methods have the highest worst class, or that none has."""
    best = students[students["worst"] == students["worst"].max()]
    if len(best) == len(students) > 1:
        return f"The worst class of each of the {len(students)} methods has {_common(best)}."
    return f"The highest worst class is that of {_listed(list(best['method']))}: {_common(best)}."


def beyond_the_union(board: pd.DataFrame, *, ranked: bool = True) -> list[str]:
    """Say which method leads under the strongest attack on all test images, if the union covers a part of them."""
    attack = attack_on_all_images(board)
    if attack is None:
        return []
    covered = board.loc[(board["attack"] == UNION) & (board["checkpoint"] == "best"), "n"].max()
    found = sentence(ranking(board, attack=attack, ranked=ranked))
    return [f"The union covers {covered} of {board['n'].max()} test images. Under {attack}, which has all: {found}"]


def placed(frame: pd.DataFrame) -> list[str]:
    """Say for each of the user's methods on a merged board which rank it has; nothing for a board of one origin."""
    ranked, said = int(frame["rank"].notna().sum()), []
    unranked = "not ranked" + (" (its tuning budget is not that of the ranked methods)" if ranked else "")
    for _, line in _own(frame).iterrows() if "whose" in frame else ():
        place = unranked if pd.isna(line["rank"]) else f"rank {line['rank']} of {ranked}"
        said.append(
            f"Yours: {line['method']}, {place}: worst class {_worst(line)}, average {100 * line['average']:.1f} %."
        )
    return said


def next_steps(frame: pd.DataFrame, path: Path) -> list[str]:
    """Return the commands that a user may want next, each after the word `Next:`."""
    suite, root = path.parent.name, path.parent.parent.parent
    students, own = frame[~frame["role"]], _own(frame)
    out = "" if str(root) == DEFAULT_OUT else " --publish" if root == Path() else f" --out {shlex.quote(str(root))}"
    name = shlex.quote(suite) if frame["rank"].notna().any() else shlex.quote(str(path))
    out = out if name == shlex.quote(suite) else ""
    steps = []
    if len(own) and own["seeds"].min() < MIN_SEEDS and frame["rank"].notna().any():
        steps.append("the same command with --seeds 0,1,2   three seeds, the minimum for a comparison")
    if len(students) > 1:
        chosen = own["method"].iloc[0] if len(own) else students["method"].iloc[0]
        rival = next(name for name in students["method"] if name != chosen)
        first, second = (shlex.quote(str(one)) for one in (chosen, rival))
        steps.append(f"fairbench leaderboard compare {first} {second} {name}{out}   class by class")
    steps.append(f"fairbench leaderboard show {name} --attack all{out}   every attack")
    return [f"Next: {step}" for step in steps]


def _own(frame: pd.DataFrame) -> pd.DataFrame:
    """The methods that the user has run: those marked as the user's, or all of a board that is not merged."""
    students = frame[~frame["role"]]
    return students[students["whose"] == YOURS] if "whose" in frame else students


def _listed(names: Sequence[str]) -> str:
    """Join names as a sentence does; of more than three, two stand for all."""
    shown = [*names[:2], f"{len(names) - 2} others"] if len(names) > 3 else list(names)
    if len(shown) == 1:
        return shown[0]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def _common(lines: pd.DataFrame) -> str:
    """Write the worst class that several methods share: with its interval if that is the same for all."""
    told = {_worst(line) for _, line in lines.iterrows()}
    return told.pop() if len(told) == 1 else f"{100 * lines['worst'].iloc[0]:.1f} %"


def _worst(line: pd.Series) -> str:
    """Write the worst class in percent with its standard deviation over seeds, or with the interval of a single run."""
    value, deviation = 100 * line["worst"], line.get("worst_std")
    if line["seeds"] > 1 and pd.notna(deviation):
        return f"{value:.1f} ± {100 * deviation:.1f} %"
    if pd.notna(line.get("worst_lo")):
        return f"{value:.1f} % (95 % CI {100 * line['worst_lo']:.1f} to {100 * line['worst_hi']:.1f})"
    return f"{value:.1f} %"


def _behind(ranked: pd.DataFrame, leading: int) -> str:
    """Say which of the methods after the `leading` ones are not significantly behind these, by the tests over seeds.

    A method with too few seeds, or whose runs are not on the board, is not tested. Where one that leads is such a
    method none is.
    """
    tested = (ranked["seeds"] >= MIN_SEEDS) & ranked["behind_best"].notna()
    if not tested.iloc[:leading].all() or not tested.iloc[leading:].any():
        needed = f"runs of {MIN_SEEDS} seeds a method are needed to compare {len(ranked)} methods"
        return f"the difference may be chance: {needed}"
    others = ranked["behind_best"].iloc[leading:][tested.iloc[leading:]]
    left = len(ranked) - leading - len(others)
    few = f"; {left} without runs of {MIN_SEEDS} seeds {'are' if left > 1 else 'is'} not compared" if left else ""
    return f"over seeds, {_level([told not in ('seeds', 'images') for told in others], whole=not left)}{few}"


def _level(level: Sequence[bool], *, whole: bool) -> str:
    """Say how many of the tested methods may be as good as the first; `whole` if every method was tested."""
    same = sum(level)
    if not same:
        return f"{'all others are' if len(level) > 1 else 'the other is'} significantly behind"
    if all(level):
        return "no other is significantly behind"
    if whole and all(level[:same]):
        which = f"the next {same} are" if same > 1 else "the next is"
    else:
        which = f"{same} others are" if same > 1 else "one other is"
    return f"{which} not significantly behind"
