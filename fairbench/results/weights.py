"""The weights of a finished run, by the name of its suite and method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fairbench.errors import InvalidInput, Missing, UnknownName
from fairbench.results.folder import each_run

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_model"]


def load_model(
    name: str, seed: int = 0, *, results: str | Path | None = None, checkpoint: Literal["best", "last"] = "best"
) -> nn.Module:
    """Load the network that a run trained, on the CPU in eval mode; it maps images in [0,1] to logits.

    `name` is SUITE/METHOD, such as "digits/absld". Runs are read from the folder `results`, by default from `./results`
    and from the checkout of the installed package; of several runs with one seed the newest is used, as on a
    leaderboard, and one with changed settings (`--set`) only if there is no other. Raises UnknownName for a method
    without runs, InvalidInput for a seed without a finished run or another form of name or checkpoint, Missing if there
    is no folder of results or no file of weights, and CorruptFile for a file that does not match its checksum.
    """
    suite, slash, method = name.partition("/")
    if not slash or not suite or not method or Path(name).parts != (suite, method) or ".." in (suite, method):
        raise InvalidInput(f"{name!r}: expected SUITE/METHOD, such as 'digits/absld'")
    if checkpoint not in ("best", "last"):
        raise InvalidInput(f"checkpoint is 'best' or 'last', not {checkpoint!r}")
    root = _folder_of(suite, results)
    methods = sorted(path.name for path in (root / suite).iterdir() if path.is_dir())
    if method not in methods:
        raise UnknownName(f"method with runs in {root / suite}:", method, methods)
    found = [(record, run) for run, record in each_run(root, suite, method)]
    of_seed = [(record, run) for record, run in found if record["seed"] == seed]
    if not of_seed:
        seeds = ", ".join(str(number) for number in sorted({record["seed"] for record, _ in found}))
        raise InvalidInput(f"{root / name}: no finished run of seed {seed}; finished seeds: {seeds or 'none'}")
    _, run = max(of_seed, key=lambda entry: _order(entry[0]))
    path = run.best if checkpoint == "best" else run.last
    if not path.is_file():
        raise Missing(f"{path}: these weights are not stored here; {run.run} names the command that trains them")
    run.verify()
    from fairbench.models import load_checkpoint

    model, _ = load_checkpoint(path)
    return model.eval()


def _order(record: Mapping[str, Any]) -> tuple[bool, str, str]:
    """The order of a seed's runs: those with the suite's own settings come after others, the newest last."""
    own = any(not protocol["custom"] for protocol in record["protocols"].values())
    return own, str(record["provenance"]["created"]), record["run_id"]


def _folder_of(suite: str, results: str | Path | None) -> Path:
    """Return the folder of results that has a suite; raises Missing, which says where committed weights are."""
    checkout = Path(__file__).resolve().parents[2]
    places = (Path(results),) if results is not None else (Path("results"), checkout / "results")
    for place in places:
        if (place / suite).is_dir():
            return place
    raise Missing(
        f"{places[0] / suite}: no such folder; committed weights are in results/{suite}/ of a checkout of the "
        "repository, and those of your runs in fairbench-out/results: name either with results=DIR"
    )
