from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fabricated import store, verdicts
from torch import nn

from fairbench.errors import CorruptFile, FairbenchError, InvalidInput, Missing, UnknownName
from fairbench.evaluation.evaluate import evaluate
from fairbench.evaluation.report import Report
from fairbench.evaluation.verdicts import Flag, Verdicts
from fairbench.gate.decision import check
from fairbench.gate.entry import from_report
from fairbench.gate.evidence import read_evidence
from fairbench.leaderboard import builder
from fairbench.statistics import metrics

ROOT = Path(__file__).resolve().parents[2]
CLEAN, PGD = (9, 8, 10), (4, 8, 6)


@pytest.fixture
def board(tmp_path):
    """A leaderboard of one suite: sat with two seeds, absld with one; three classes of ten images."""
    labels, clean = verdicts(CLEAN, 10)
    attacks = {"clean": clean, "pgd-20": verdicts(PGD, 10)[1]}
    for method, seed in (("sat", 0), ("sat", 1), ("absld", 0)):
        store(tmp_path / "results", labels, attacks, method=method, seed=seed, names=("cat", "dog", "elk"))
    return builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", "tiny")[0]


def edit(path, **cells):
    """Change cells of every row of a CSV."""
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows({**row, **cells} for row in rows)


def test_a_board_beside_its_results_has_verdicts(board):
    entries = read_evidence(board)
    assert sorted(entry.name for entry in entries) == ["absld seed 0", "sat seed 0", "sat seed 1"]
    for entry in entries:
        assert entry.correct.tolist() == [4, 8, 6]
        assert entry.counts.tolist() == [10, 10, 10]
        assert entry.attacks == ("clean", "pgd-20")
        assert entry.class_names == ("cat", "dog", "elk")
        assert entry.threat == ("Linf", 8 / 255)
        assert entry.hits.sum() == 18
        assert entry.costs == {"train_seconds": 2.0, "flops": 1000.0}
        assert entry.flags is None


def test_a_board_alone_has_counts(board, tmp_path):
    moved = shutil.copy(board, tmp_path / "moved.csv")
    for entry in read_evidence(moved, "clean"):
        assert entry.correct.tolist() == list(CLEAN)
        assert entry.hits is None
        assert entry.labels is None
        assert entry.threat is None


def test_run_folders_are_found_at_every_level(board, tmp_path):
    results = tmp_path / "results"
    run = next(results.glob("tiny/absld/*"))
    for path, count in ((tmp_path, 3), (results, 3), (results / "tiny", 3), (results / "tiny" / "sat", 2), (run, 1)):
        entries = read_evidence(path)
        assert len(entries) == count
        assert all(entry.alone == (path == run) for entry in entries)
        assert all(entry.protocol == "a1" for entry in entries)


def test_of_two_runs_of_a_seed_the_newest_counts_and_a_custom_one_comes_second(tmp_path):
    labels, old = verdicts((5, 5), 10)
    _, new = verdicts((7, 7), 10)
    store(tmp_path, labels, {"clean": old}, created="2026-01-01T00:00:00Z")
    store(tmp_path, labels, {"clean": new}, created="2026-01-02T00:00:00Z", data_hash="e")
    store(tmp_path, labels, {"clean": old}, created="2026-01-03T00:00:00Z", data_hash="f", custom=True)
    assert [entry.correct.tolist() for entry in read_evidence(tmp_path)] == [[7, 7]]


def test_a_warm_start_counts_in_the_costs_of_a_run_as_on_its_board():
    (run,) = (one for one in read_evidence(ROOT / "results/digits/frl/d1743b09e76d") if one.version == 4)
    rows = read_evidence(ROOT / "leaderboards/digits/v4.csv")
    (row,) = (one for one in rows if one.key == run.key)
    assert run.costs == pytest.approx(row.costs, rel=0.01)
    outcome = check([run], [row], methods=["frl"], seeds=[run.seed], max_slowdown=1.01)
    assert outcome.passed


def test_a_run_without_its_warm_start_has_no_costs(tmp_path):
    alone = shutil.copytree(ROOT / "results/digits/frl/d1743b09e76d", tmp_path / "d1743b09e76d")
    entries = read_evidence(alone)
    assert {len(one.costs) for one in entries} == {0}
    with pytest.raises(InvalidInput, match=r"no train_seconds on the baseline .*the warm start of .* is not"):
        check(entries, entries, max_slowdown=2)


def test_evaluations_of_other_images_are_not_compared(tmp_path):
    """Their labels are the same: a test set that was processed in another way."""
    images, labels = torch.rand(20, 1, 4, 4), torch.arange(20) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    reports = [evaluate(model, (x, labels), attacks=["clean"], norm="Linf", eps=0.1) for x in (images, images.sqrt())]
    assert reports[0].data != reports[1].data
    for name, report in zip("ab", reports, strict=True):
        report.save(tmp_path / name)
    (before,), (after,) = (read_evidence(tmp_path / name) for name in "ab")
    assert (before.images_hash, after.images_hash) == tuple(report.data for report in reports)
    for one, other in ((before, after), (before, from_report(reports[1]))):
        with pytest.raises(InvalidInput, match="different test images"):
            check([one], [other])
    assert check([before], [from_report(reports[0])]).passed
    assert check([before], [replace(after, images_hash="")]).checks  # an evaluation of an earlier release


def test_a_saved_evaluation_is_read_with_its_threat_and_its_flags(tmp_path):
    labels, predicted = verdicts((3, 9), 10)
    flags = {"bad-gradient": Flag(0.4, True), "small-n": Flag(10, False)}
    report = Report(Verdicts(labels, {"clean": labels, "pgd-20": predicted}, 2), ("a", "b"), flags, ("Linf", 0.1))
    report.save(tmp_path)
    for entry in (*read_evidence(tmp_path), from_report(report)):
        assert (entry.name, entry.alone, entry.threat) == ("model", True, ("Linf", 0.1))
        assert entry.correct.tolist() == metrics.class_correct(labels, predicted, 2).tolist()
        assert entry.attacks == ("clean", "pgd-20")
        assert entry.flags == {"bad-gradient"}
    replace(report, flags={}, threat=None).save(tmp_path)
    (entry,) = read_evidence(tmp_path)
    assert (entry.flags, entry.threat) == (None, None)


def test_red_flags_come_from_the_run_and_from_the_column(tmp_path):
    labels, predicted = verdicts((5, 5), 10)
    flags = {"bad-gradient": {"value": 1.0, "red": True}, "small-n": {"value": 10, "red": True}}
    store(tmp_path / "results", labels, {"clean": predicted}, flags=flags)
    (board,) = builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", "tiny")
    assert read_evidence(tmp_path)[0].flags == {"bad-gradient", "small-n"}
    for cell, expected in (("bad-gradient;small-n", {"bad-gradient", "small-n"}), ("none", set()), ("", None)):
        edit(board, flags=cell)
        assert read_evidence(board)[0].flags == expected


@pytest.fixture
def many(tmp_path):
    """A leaderboard of 25 classes of 25 images, with its sibling file, apart from its results."""
    labels, predicted = verdicts(range(25), 25)
    store(tmp_path / "results", labels, {"clean": predicted})
    board = builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", "tiny")[0]
    (tmp_path / "moved").mkdir()
    shutil.copy(board, tmp_path / "moved" / "v1.csv")
    shutil.copy(board.with_name("v1.classes.csv"), tmp_path / "moved" / "v1.classes.csv")
    return tmp_path / "moved" / "v1.csv"


def test_many_classes_are_read_from_the_sibling_file(many):
    assert read_evidence(many)[0].correct.tolist() == list(range(25))
    many.with_name("v1.classes.csv").unlink()
    with pytest.raises(Missing, match=r"v1\.classes\.csv: v1\.csv has its classes there"):
        read_evidence(many)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"class_3": "0.1357"}, "row 3, column 'class_3': 0.1357 is no share of 25 images"),
        ({"n_class_3": "26"}, "column 'class_3': 0.12 is no share of 26 images"),
        ({"class_3": "0.5"}, "column 'class_3': 0.5 is no share of 25 images"),
        ({"class_3": "0.48"}, "row 3: the classes give the average 0.4944"),
        ({"class_3": "1.2"}, "row 3: class 3 has accuracy 1.2 on 25.0 images"),
        ({"class_3": "-0.12"}, "class 3 has accuracy -0.12 on 25.0 images"),
        ({"class_3": ""}, "class 3 has accuracy nan on 25.0 images"),
        ({"class_3": "many"}, "class 3 has accuracy nan on 25.0 images"),
        ({"n_class_3": "-25"}, "class 3 has accuracy 0.12 on -25.0 images"),
        ({"n_class_3": "2.5"}, "class 3 has accuracy 0.12 on 2.5 images"),
        ({"n_class_3": "1e400"}, "class 3 has accuracy 0.12 on inf images"),
        ({"n_class_3": "1e300"}, "class 3 has accuracy 0.12 on 1e.300 images"),
        ({"n_class_3": ""}, "class 3 has accuracy 0.12 on nan images"),
        ({"n_class_3": "0"}, "the classes have 600 images, column 'n' says 625"),
    ],
)
def test_cells_of_the_sibling_file_that_cannot_be_are_refused(many, cells, words):
    edit(many.with_name("v1.classes.csv"), **cells)
    with pytest.raises(CorruptFile, match=words):
        read_evidence(many)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"class_1": ""}, "row 2, column 'n': 30, but its classes have 20 images"),
        ({"class_1": "", "n": "20"}, "row 2, column .worst.: 0.8000, but its classes give 0.9000"),
        ({"n_class_1": ""}, "column .n_class_1.: empty"),
        ({"n_class_1": "11"}, "row 2, column 'n': 30, but its classes have 31 images"),
        ({"n_class_1": "11", "n": "31"}, "row 2, column .average.: 0.9000, but its classes give 0.8968"),
        ({"class_1": "0.8333"}, "row 2, column .worst.: 0.8000, but its classes give 0.8333"),
        ({"n": "31"}, "row 2, column 'n': 31, but its classes have 30 images"),
    ],
)
def test_cells_that_cannot_be_are_refused(board, tmp_path, cells, words):
    moved = tmp_path / "moved.csv"
    shutil.copy(board, moved)
    edit(moved, **cells)
    with pytest.raises(CorruptFile, match=words):
        read_evidence(moved)


def test_a_board_that_contradicts_its_verdicts_is_refused(board, tmp_path):
    labels, clean = verdicts(CLEAN, 10)
    attacks = {"clean": clean, "pgd-20": verdicts(PGD[::-1], 10)[1]}
    store(tmp_path / "results", labels, attacks, method="sat", seed=0, names=("cat", "dog", "elk"))
    with pytest.raises(CorruptFile, match="differs from the verdicts of run"):
        read_evidence(board)


def test_a_board_of_other_weights_stands_without_verdicts(board):
    edit(board, weights_hash="other")
    assert all(entry.hits is None for entry in read_evidence(board))


def test_a_row_cannot_lead_out_of_the_results(board):
    edit(board, run_id="../../etc")
    with pytest.raises(CorruptFile, match="names no run folder"):
        read_evidence(board)


def test_what_is_not_there_is_named(board, tmp_path):
    with pytest.raises(Missing, match="nowhere: no such file or folder, and no suite of this name has a leaderboard"):
        read_evidence(tmp_path / "nowhere")
    with pytest.raises(UnknownName, match="did you mean 'pgd-20'"):
        read_evidence(board, "pgd-2")
    with pytest.raises(UnknownName, match="did you mean 'pgd-20'"):
        read_evidence(tmp_path / "results", "pgd-2")


@pytest.mark.parametrize("text", ["[]", "{}", '{"attacks": 3}', '{"attacks": {"clean": {}}, "class_names": ["a"]}'])
def test_a_foreign_report_is_refused(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(CorruptFile, match="not those of"):
        read_evidence(tmp_path)


def test_a_row_that_was_taken_out_is_missed(board, tmp_path):
    lines = board.read_text().splitlines()
    moved = tmp_path / "moved.csv"
    moved.write_text("\n".join(line for line in lines if not (",absld," in line and ",union," in line)) + "\n")
    with pytest.raises(CorruptFile, match="absld seed 0 has no row of 'union'"):
        read_evidence(moved)


def test_an_incomplete_record_is_refused(tmp_path):
    labels, predicted = verdicts((5, 5), 10)
    folder = store(tmp_path, labels, {"clean": predicted})
    record = folder.read()
    for broken in ({"protocols": None}, {"spec": {}}, {"cost": {}}, {"flags": {"best": {"small-n": 3}}}):
        folder.write({**record, **broken})
        with pytest.raises(CorruptFile, match=r"run\.json: not "):
            read_evidence(tmp_path)


def test_a_run_that_is_not_complete_does_not_count(tmp_path):
    labels, predicted = verdicts((5, 5), 10)
    folder = store(tmp_path, labels, {"clean": predicted})
    folder.write({**folder.read(), "status": "trained"})
    with pytest.raises(Missing, match="no complete run"):
        read_evidence(tmp_path)


def test_damaged_verdicts_are_refused(tmp_path):
    labels, predicted = verdicts((5, 5), 10)
    folder = store(tmp_path, labels, {"clean": predicted})
    folder.verdicts.write_bytes(folder.verdicts.read_bytes()[:-9])
    with pytest.raises(FairbenchError, match=r"verdicts\.npz"):
        read_evidence(tmp_path)
    np.savez(folder.verdicts, labels=labels)
    with pytest.raises(FairbenchError, match=r"verdicts\.npz"):
        read_evidence(tmp_path)


def test_images_outside_an_attacks_subset_are_not_compared(tmp_path):
    labels, predicted = verdicts((3, 9), 10)
    part = np.where(np.arange(len(labels)) % 2 == 0, predicted, -2)
    report = Report(Verdicts(labels, {"clean": labels, "pgd-20:per_class=5": part}, 2), ("a", "b"))
    report.save(tmp_path)
    for entry in (*read_evidence(tmp_path), from_report(report)):
        assert entry.counts.tolist() == [5, 5]
        assert entry.correct.tolist() == metrics.class_correct(labels[::2], predicted[::2], 2).tolist()
        assert len(entry.labels) == len(entry.hits) == 10


def test_a_folder_without_evidence_is_told_from_none(tmp_path):
    with pytest.raises(Missing, match="no leaderboard CSV, no run folders and no folder of `fairbench evaluate --out`"):
        read_evidence(tmp_path)


def test_an_unfinished_evaluation_is_told_from_other_folders(tmp_path):
    (tmp_path / "partial").mkdir()
    with pytest.raises(Missing, match="its evaluation was stopped; the same `fairbench evaluate` command continues it"):
        read_evidence(tmp_path)
