from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from fairbench.errors import CorruptFile
from fairbench.results.record import check_record

COMMITTED = sorted((Path(__file__).parents[2] / "results").glob("*/*/*/run.json"))
PATH = Path("run.json")


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    records = (json.loads(path.read_text()) for path in COMMITTED)
    return next(record for record in records if "1" in record.get("protocols", {}))


@pytest.mark.parametrize("path", COMMITTED[:3], ids=lambda path: path.parent.parent.name)
def test_committed_records_are_records(path):
    record = json.loads(path.read_text())
    assert check_record(record, path) is record


def test_a_run_that_is_not_finished_needs_little():
    assert check_record({"schema": 1, "status": "diverged", "files": {}}, PATH)["status"] == "diverged"


@pytest.mark.parametrize(
    ("part", "value"),
    [("protocols", None), ("protocols", {"1": {}}), ("provenance", {"created": 3}), ("provenance", [])],
)
def test_what_a_run_in_any_state_has_is_checked(part, value):
    with pytest.raises(CorruptFile, match=f"not a run record of schema 1: {part}"):
        check_record({"schema": 1, "status": "trained", "files": {}, part: value}, PATH)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (["schema"], 2, "schema: input should be 1"),
        (["files"], [], "files: "),
        (["seed"], "0", "seed: "),
        (["seed"], 7, "its name, seed or id is not that of its spec"),
        (["method"], "other", "its name, seed or id"),
        (["class_names"], [], "class_names: "),
        (["cost", "train_seconds"], float("nan"), "cost.train_seconds: "),
        (["evaluations"], {}, "no verdicts for best/clean are recorded"),
        (["weights"], {"best": "x"}, "weights.last: field required"),
        (["protocols"], {"../../x": {}}, "protocols."),
        (["protocols", "1", "hash"], "../../x", "protocols.1.hash: "),
        (["protocols", "1", "metrics"], "2", "protocols.1.metrics: "),
        (["protocols", "1", "budget"], [1], "protocols.1.budget: "),
        (["protocols", "1", "tuning"], "by hand", "protocols.1.tuning: "),
        (["protocols", "1", "tuning"], "tuned", "has a mark of tuning and no budget"),
        (["flags"], {"best": {"small": {}}}, "flags.best.small.red: field required"),
        (["spec"], {}, "suite: field required"),
        (["protocols"], {str(number): {} for number in range(1, 3001)}, "protocols"),
        (["protocols", "1", "best"], ["clean"] * 101, "protocols.1.best: "),
        (["class_names"], ["x"] * 100_001, "class_names: "),
        (["spec", "model"], "wide", "its name, seed or id"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_one_line_that_names_it(record, where, value, message):
    record = copy.deepcopy(record)
    owner = record
    for key in where[:-1]:
        owner = owner[key]
    owner[where[-1]] = value
    with pytest.raises(CorruptFile) as caught:
        check_record(record, PATH)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("protocols", "attacks", "message"),
    [(51, 1, "protocols: "), (11, 100, "more attacks and classes than a leaderboard may have")],
)
def test_a_record_has_so_many_protocols_and_attacks_and_no_more(record, protocols, attacks, message):
    one = {**record["protocols"]["1"], "best": ["clean"], "last": ["clean"]}
    few = {str(number): one for number in range(1, 51)}
    assert check_record({**record, "protocols": few}, PATH)
    many = {str(number): {**one, "best": ["clean"] * attacks} for number in range(1, protocols + 1)}
    with pytest.raises(CorruptFile) as caught:
        check_record({**record, "protocols": many}, PATH)
    assert message in str(caught.value)


@pytest.mark.parametrize("record", [None, [], "x", 3, {}])
def test_what_is_no_record_at_all_is_one_line(record):
    with pytest.raises(CorruptFile, match=r"run\.json: not a run record of schema 1"):
        check_record(record, PATH)
