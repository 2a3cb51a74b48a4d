"""The settings that a method's trials try, their order, and the choice among them: pure functions of the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

__all__ = ["Candidate", "Planned", "Scores", "Space", "choose_setting", "planned"]


@dataclass(frozen=True)
class Candidate:
    """One setting: values of the recipe, such as `lr`, and hyper-parameters by `method.field`."""

    recipe: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Planned:
    """One trial of a method: its setting and its seed."""

    candidate: Candidate
    seed: int


Scores = Mapping[Planned, float]


@dataclass(frozen=True)
class Space:
    """The settings that the trials of one method may try.

    `rates` are the suite's learning rates, `optimisers` the optimiser settings of the method's own recipe and of its
    paper. `knobs` maps a hyper-parameter to the values to try besides its default, the main one first. `trials` and
    `seeds` are the same for all methods of a suite; `confirm` trials are reserved for further seeds of the two best
    settings.
    """

    rates: tuple[float, ...]
    knobs: tuple[tuple[str, tuple[Any, ...]], ...]
    trials: int
    seeds: tuple[int, ...]
    optimisers: tuple[tuple[tuple[str, Any], ...], ...] = ()
    confirm: int = 2

    def seed(self, number: int) -> int:
        """The seed of a setting's trial number `number`, from 0; after the last of the seeds come the next integers."""
        return self.seeds[number] if number < len(self.seeds) else self.seeds[-1] + number - len(self.seeds) + 1


def planned(space: Space, scores: Scores) -> list[Planned]:
    """Return the trials that the scores so far define, in their order.

    The learning rates and the optimisers come first, then the knobs' values at the best of these, then further seeds of
    the two best settings, alternating, until every trial is used. A method without knobs has more of the last kind. The
    list grows with the scores; it is complete once every trial on it has a score.
    """
    room = max(0, space.trials - len(space.rates) - space.confirm)
    recipes = [(("lr", rate),) for rate in space.rates] + list(space.optimisers[:room])
    first = [Planned(Candidate(recipe), space.seed(0)) for recipe in recipes][: space.trials]
    if any(trial not in scores for trial in first):
        return first
    best = _best(first, scores)[0].candidate
    room -= max(0, len(first) - len(space.rates))
    turns = [Candidate(best.recipe, ((name, value),)) for name, values in space.knobs for value in values]
    tried = first + [Planned(candidate, space.seed(0)) for candidate in turns[:room]]
    if any(trial not in scores for trial in tried):
        return tried
    finalists = _best(tried, scores)[:2]
    rest = range(space.trials - len(tried))
    turn = len(finalists)
    return tried + [Planned(finalists[n % turn].candidate, space.seed(1 + n // turn)) for n in rest]


def choose_setting(trials: Sequence[Planned], scores: Scores) -> Candidate:
    """Return the setting with the highest mean score over its seeds, among those with at least two seeds.

    If no setting has two seeds, all are compared. Of equal scores the earlier trial's wins.
    """
    seeds: dict[Candidate, list[float]] = {}
    for trial in trials:
        seeds.setdefault(trial.candidate, []).append(scores[trial])
    finalists = {candidate: found for candidate, found in seeds.items() if len(found) > 1} or seeds
    return max(finalists, key=lambda candidate: fmean(finalists[candidate]))


def _best(trials: Sequence[Planned], scores: Scores) -> list[Planned]:
    """The trials, best first; the sort is stable, so that of equal scores the earlier one comes first."""
    return sorted(trials, key=lambda trial: -scores[trial])
