"""Making a board under a clock and a device that are stand-ins: what is tuned, what is run, and when tuning stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fabricated import store, verdicts

from fairbench.files import write_text
from fairbench.results.folder import RunFolder
from fairbench.run.tuning.table import TrialRow, read_table, table_path, write_table
from fairbench.suites.chosen import Choice, Chosen, chosen_text, read_chosen, user_path
from fairbench.suites.suite import Suite, Tuning
from gpu.board import main
from gpu.making import Maker
from gpu.packing import Parcel
from gpu.process import Ended
from gpu.time_limit import TimeLimit
from gpu.workspace import Workspace

METHODS = ("sat", "trades", "absld", "fair_ard")
FIGURES = {"score": 0.5, "score_se": 0.01, "average": 0.6, "worst": 0.4}


class Device:
    """A clock, and commands that write what `fairbench` writes: a trial every 10 s, a run every 20 s."""

    def __init__(self, folder: Path, **changes) -> None:
        tree = {"name": "tiny", "data": {"name": "digits"}, "model": "small-cnn", "methods": METHODS}
        tuning = Tuning(trials=2, lr=(0.1, 0.2), confirm=0)
        self.space = Workspace(folder, Suite.model_validate({**tree, "tuning": tuning, **changes}), folder / "nowhere")
        self.now, self.commands, self.fails = 0.0, list[list[str]](), False
        self.space.prepare()

    def maker(self, seconds: float, **options) -> Maker:
        return Maker(self.space, TimeLimit(seconds, 0.0, lambda: self.now), self.run, 1, **options)

    def run(
        self,
        words: Sequence[str],
        log: Path,
        limit: float,
        *,
        cwd: Path | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> Ended:
        assert cwd == self.space.folder
        command, end, start = list(words[3:]), self.now + limit, self.now
        self.commands.append(command)
        work = {"tune": self.tune, "run": self.train}.get(command[0], lambda _: iter(()))
        state = "failed" if self.fails else "done"
        for seconds, finish in [] if self.fails else work(command[3].split(",")):
            if self.now + seconds > end or enough():
                self.now = min(end, self.now + seconds) if not enough() else self.now
                state = "unfinished"
                break
            self.now += seconds
            finish()
        log.write_text("the last line\n")
        return Ended(state, int(self.fails), self.now - start)

    def tune(self, methods: Sequence[str]):
        table = table_path(self.space.folder, "tiny", 1)
        for method in methods:
            for number in range(2):
                rows = read_table(table) if table.exists() else []
                if not any((row.method, row.trial) == (method, number) for row in rows):
                    yield 10.0, partial(write_table, table, [*rows, _trial(method, number)])
            self.settle(method)

    def settle(self, method: str) -> None:
        path = user_path(self.space.folder, "tiny", 1)
        known = read_chosen(path, self.space.suite).methods if path.exists() else {}
        entry = Choice(recipe={"lr": 0.1}, trials=2, budget="b", **FIGURES)
        write_text(path, chosen_text(Chosen(suite="tiny", version=1, methods={**known, method: entry})))

    def train(self, methods: Sequence[str]):
        for method in methods:
            yield 20.0, partial(run_folder, self.space.folder, method)

    def did(self) -> list[tuple[str, str]]:
        return [(words[0], words[3]) for words in self.commands if words[0] in {"tune", "run"}]


def _trial(method: str, number: int) -> TrialRow:
    return TrialRow(
        suite="tiny",
        version=1,
        method=method,
        trial=number,
        seed=1000,
        recipe="{}",
        options="{}",
        status="scored",
        budget="b",
        train_seconds=10.0,
        run_id=f"{method}{number}",
        **FIGURES,
    )


def run_folder(root: Path, method: str, *, seed: int = 0, role: str = "student", status: str = "complete") -> RunFolder:
    """A run with made-up verdicts, a history and weights."""
    labels, predicted = verdicts([3, 5], 5)
    folder = store(root / "results", labels, {"clean": predicted}, method=method, seed=seed, role=role)
    folder.history.write_text("epoch\n0\n", encoding="utf-8")
    folder.best.write_bytes(np.random.default_rng(seed).bytes(1000))
    folder.write({**folder.read(), "status": status})
    return folder


def packed(parcels: Sequence[Parcel]) -> list[str]:
    """The methods and files of parcels, or the files alone of what is not a run."""
    return [" ".join([each.paths[0].parts[-3], *(path.name for path in each.paths)]) for each in parcels]


def test_every_method_is_tuned_then_run_where_there_is_time(tmp_path):
    device = Device(tmp_path)
    maker = device.maker(1000.0)
    maker.make([METHODS], tune=True)
    assert device.did() == [("tune", ",".join(METHODS)), ("run", ",".join(METHODS))]
    assert maker.finished == set(METHODS)


def test_commands_leave_no_path_in_the_records(tmp_path):
    device = Device(tmp_path)
    device.maker(1000.0).make([("sat",)], tune=True)
    for words in device.commands:
        assert words[1:] == ["tiny", "--methods", "sat", "--jobs", "1", "--publish"]


def test_tuning_stops_when_the_time_left_is_that_of_the_runs(tmp_path):
    """Each method has 20 s of trials and, before an evaluation is known, 20 s of run; the reserve has 30 s to start."""
    device = Device(tmp_path)
    maker = device.maker(140.0)
    maker.make([METHODS], tune=True)
    # Three methods are tuned after 60 s, when 80 s are left: less than the 30 + 3 * 20 s of their runs, which two fit.
    assert device.did()[:2] == [("tune", ",".join(METHODS)), ("run", "sat,trades")]
    assert maker.rows[0].state == "unfinished"
    # The evaluations took 1.5 s, so that the third fits as well.
    assert device.did()[2:4] == [("tune", "absld,fair_ard"), ("run", "absld")]
    assert maker.finished == {"sat", "trades", "absld"}
    assert "fair_ard" not in device.space.tuned(METHODS)
    assert device.now <= 140.0


def test_a_method_with_unfinished_trials_is_not_run(tmp_path):
    device = Device(tmp_path)
    maker = device.maker(110.0)
    maker.make([METHODS], tune=True)
    ran = {name for command, names in device.did() if command == "run" for name in names.split(",")}
    assert ran <= set(device.space.tuned(METHODS))
    assert "fair_ard" not in ran


def test_lots_are_boards_by_themselves(tmp_path):
    device = Device(tmp_path)
    device.maker(1000.0).make([METHODS[:2], METHODS[2:]], tune=True)
    assert device.did() == [(command, lot) for lot in ("sat,trades", "absld,fair_ard") for command in ("tune", "run")]


def test_without_tuning_every_method_is_run(tmp_path):
    device = Device(tmp_path)
    device.maker(1000.0).make([METHODS], tune=False)
    assert device.did() == [("run", ",".join(METHODS))]


def test_a_method_that_inherits_its_settings_waits_for_the_other_method(tmp_path):
    device = Device(tmp_path, inherits={"trades": "sat"})
    assert device.space.tuned(METHODS) == []
    device.maker(1000.0).make([("sat", "trades")], tune=True)
    assert device.did() == [("tune", "sat"), ("run", "sat,trades")]


def test_another_call_goes_on(tmp_path):
    device = Device(tmp_path)
    device.maker(65.0).make([METHODS], tune=True)
    device.now = 0.0
    maker = device.maker(1000.0)
    maker.make([METHODS], tune=True)
    assert maker.finished == set(METHODS)
    assert len(read_table(table_path(tmp_path, "tiny", 1))) == 2 * len(METHODS)


def test_a_command_that_fails_ends_the_making(tmp_path):
    device = Device(tmp_path)
    device.fails = True
    maker = device.maker(1000.0)
    maker.make([METHODS], tune=True)
    assert [(row.state, row.text) for row in maker.rows] == [("failed", "the last line")]


def test_no_command_starts_without_time(tmp_path):
    device = Device(tmp_path)
    device.maker(10.0).make([METHODS], tune=True)
    assert device.commands == []


def test_results_are_kept_after_every_command(tmp_path):
    device, kept = Device(tmp_path), list[int]()
    device.maker(1000.0, keep=lambda: kept.append(len(device.commands))).make([METHODS], tune=True)
    assert kept == [1, 2]


def test_what_can_be_published_is_packed_in_order_of_value(tmp_path):
    space = Device(tmp_path / "work").space
    for method, seed in (("sat", 1), ("sat", 0), ("absld", 0)):
        run_folder(space.folder, method, seed=seed)
    run_folder(space.folder, "teacher", role="teacher")
    run_folder(space.folder, "trades", status="trained")
    write_table(table_path(space.folder, "tiny", 1), [_trial("sat", 0)])
    records = "run.json verdicts.npz history.csv"
    assert packed(space.parcels(("absld", "sat"))) == [
        "tuning v1.csv",
        f"teacher {records}",
        f"absld {records}",
        f"sat {records}",
        f"sat {records}",
    ]
    assert packed(space.weights(("absld", "sat"))) == [
        "teacher best.safetensors",
        "absld best.safetensors",
        "sat best.safetensors",
        f"trades {records} best.safetensors",  # trained, not evaluated: with its record another call evaluates it
    ]


def test_what_the_checkout_has_is_copied_and_not_packed_again(tmp_path):
    run_folder(tmp_path / "checkout", "sat")
    suite = Device(tmp_path / "other").space.suite
    space = Workspace(tmp_path / "work", suite, tmp_path / "checkout")
    space.prepare()
    assert space.costs(1).evaluations == [1.5]
    assert space.parcels(METHODS) == space.weights(METHODS) == []
    run_folder(space.folder, "trades")
    space.prepare()
    assert packed(space.parcels(METHODS)) == ["trades run.json verdicts.npz history.csv"]


def test_a_damaged_run_is_not_packed(tmp_path):
    space = Device(tmp_path).space
    run_folder(tmp_path, "sat").verdicts.write_bytes(b"other")
    assert space.parcels(METHODS) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits"], "the following arguments are required: --minutes"),
        (["digits", "--minutes", "5", "--lot", "0"], "argument --lot: expected an integer from 1, got '0'"),
        (["nosuch", "--minutes", "5"], "unknown suite 'nosuch'"),
        (["digits", "--minutes", "5", "--methods", ","], "--methods: expected comma-separated names, got ','"),
        (["zoo-small", "--minutes", "5"], "suite zoo-small trains nothing: fairbench run zoo-small"),
        (["digits-ablations", "--minutes", "5", "--tune"], "--tune: suite digits-ablations has no trials of its own"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tests/gpu/board.sh: {message}")
    assert error.count("\n") == 1
