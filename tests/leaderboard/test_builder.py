from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from stored import CLEAN, PGD, build_board, run_spec, store

import fairbench
from fairbench.errors import CorruptFile, InvalidInput, Missing
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.builder import board_name
from fairbench.leaderboard.columns import COLUMNS
from fairbench.leaderboard.rows import rows_of
from fairbench.results.folder import RunFolder
from fairbench.suites.sections import Environment, Evaluation, Recipe, ThreatSection

# Section by section as the documentation lists them; `seeds` is what the aggregated rows add.
DOCUMENTED = """
schema suite protocol method base policies provenance dataset architecture teacher seed seeds checkpoint selection
attack n average average_lo average_hi worst worst_lo worst_hi worst_class worst_crossfit worst10 nsd
nsd_corrected gap gini flags quick class_0 class_1 n_class_0 n_class_1 train_seconds eval_seconds
images_per_second forwards backwards flops peak_memory_mb device precision threads recipe_hash data_hash
weights_hash commit dirty command created run_id packages split_hash config_hash
"""


def _rows(path: Path, **wanted: str) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return [row for row in csv.DictReader(handle) if wanted.items() <= row.items()]


def test_the_columns_are_those_that_are_documented_in_their_order(tmp_path):
    store(tmp_path / "results", run_spec())
    (path,) = build_board(tmp_path)
    assert path == tmp_path / "leaderboards" / "tiny" / "v1.csv"
    header = path.read_text().splitlines()[0].split(",")
    assert header == DOCUMENTED.split()
    inline = ["class_0", "class_1", "n_class_0", "n_class_1"]
    assert [name for name in header if name not in inline] == [name for name in COLUMNS if name != "classes"]


def test_a_row_by_hand(tmp_path):
    spec = run_spec()
    store(tmp_path / "results", spec)
    (path,) = build_board(tmp_path)
    (clean,) = _rows(path, seed="0", checkpoint="best", attack="clean")
    assert {key: clean[key] for key in ("schema", "suite", "protocol", "method", "base", "policies", "provenance")} == {
        "schema": "2",
        "suite": "tiny",
        "protocol": "a1",
        "method": "sat",
        "base": "sat",
        "policies": "p+q",
        "provenance": "paper",
    }
    assert clean["dataset"] == "npz:train.npz,test.npz"
    assert (clean["teacher"], clean["seeds"], clean["selection"], clean["quick"]) == ("", "1", "validation", "False")
    figures = {"n": "8", "average": "0.8750", "worst": "0.7500", "worst_class": "cat", "worst10": "0.7500"}
    figures |= {"class_0": "0.7500", "class_1": "1.0000", "n_class_0": "4", "n_class_1": "4", "gap": "0.2500"}
    figures |= {"nsd": "0.1429"}  # the classes deviate by 0.125 from a mean of 0.875
    assert {key: clean[key] for key in figures} == figures
    assert float(clean["average_lo"]) < 0.875 < float(clean["average_hi"])
    assert float(clean["worst_lo"]) < 0.75 < float(clean["worst_hi"])
    costs = {"train_seconds": "2.00", "eval_seconds": "1.50", "images_per_second": "50.00", "forwards": "100"}
    costs |= {"backwards": "90", "flops": "1000", "peak_memory_mb": "12.30", "threads": "1", "device": "cpu"}
    assert {key: clean[key] for key in costs} == costs
    assert (clean["commit"], clean["dirty"], clean["weights_hash"]) == ("c0ffee", "False", "b")
    assert clean["command"] == "fairbench run tiny, twice"
    assert clean["run_id"] == spec.run_id
    assert clean["packages"] == "python=3.11.7;torch=2.15.0;cuda=12.8"

    (union,) = _rows(path, seed="0", checkpoint="best", attack="union")
    assert (union["class_0"], union["class_1"], union["worst_class"]) == ("0.5000", "0.2500", "dog")
    assert (union["average"], union["eval_seconds"]) == ("0.3750", "3.00")
    (last,) = _rows(path, seed="0", checkpoint="last", attack="clean")
    assert (last["selection"], last["weights_hash"]) == ("last", "l")
    assert [row["attack"] for row in _rows(path, seed="0")] == ["clean", "pgd-20", "union", "clean", "union"]


def test_mean_and_deviation_over_seeds_by_hand(tmp_path):
    for seed, clean in ((0, CLEAN), (1, [0, 0, 1, 1, 1, 1, 1, 1]), (2, [0, 1, 1, 1, 1, 1, 1, 1])):
        predicted = {"best/clean": clean, "best/pgd-20": PGD, "last/clean": clean}
        store(tmp_path / "results", run_spec(seed=seed), predicted)
    (path,) = build_board(tmp_path)
    (mean,) = _rows(path, seed="mean", checkpoint="best", attack="clean")
    (std,) = _rows(path, seed="std", checkpoint="best", attack="clean")
    # averages 7/8, 6/8, 5/8 and worst classes 3/4, 2/4, 1/4; the sample deviations are 1/8 and 1/4
    assert (mean["average"], mean["worst"], mean["class_0"], mean["class_1"]) == (
        "0.7500",
        "0.5000",
        "0.5000",
        "1.0000",
    )
    assert (std["average"], std["worst"], std["class_0"], std["class_1"]) == ("0.1250", "0.2500", "0.2500", "0.0000")
    assert (mean["train_seconds"], std["train_seconds"]) == ("3.00", "1.00")
    for row in (mean, std):
        assert (row["seeds"], row["run_id"], row["worst_class"], row["n"], row["method"]) == ("3", "", "", "8", "sat")
    seeds = [row["seed"] for row in _rows(path, checkpoint="best", attack="union")]
    assert seeds == ["0", "1", "2", "mean", "std"]


def test_one_seed_has_a_mean_but_no_deviation(tmp_path):
    store(tmp_path / "results", run_spec(seed=5))
    (path,) = build_board(tmp_path)
    (mean,) = _rows(path, seed="mean", checkpoint="best", attack="clean")
    (std,) = _rows(path, seed="std", checkpoint="best", attack="clean")
    assert (mean["average"], mean["seeds"]) == ("0.8750", "1")
    assert (std["average"], std["worst"], std["seeds"]) == ("", "", "1")


def test_building_again_changes_no_byte_whatever_the_order_of_the_folders(tmp_path):
    specs = [run_spec(method, seed) for method in ("trades", "sat", "sat+p") for seed in (10, 2)]
    for spec in specs:
        store(tmp_path / "a" / "results", spec)
    for spec in reversed(specs):
        store(tmp_path / "b" / "results", spec)
    (first,), (other,) = build_board(tmp_path / "a"), build_board(tmp_path / "b")
    before = first.read_bytes()
    assert build_board(tmp_path / "a") == [first]
    assert first.read_bytes() == before == other.read_bytes()
    order = [(row["method"], row["seed"]) for row in _rows(first, checkpoint="best", attack="clean")]
    assert order == [(name, seed) for name in ("sat", "sat+p", "trades") for seed in ("2", "10", "mean", "std")]


def test_of_two_runs_with_one_method_and_seed_the_newest_is_shown(tmp_path):
    results = tmp_path / "results"
    old, new = run_spec(), run_spec(environment=Environment(torch="3.0.0"))
    store(results, new, {"best/clean": CLEAN, "best/pgd-20": CLEAN, "last/clean": CLEAN}, created="2026-03-01")
    store(results, old, created="2026-02-01")
    store(results, run_spec(seed=1), created="2026-01-01")
    (path,) = build_board(tmp_path)
    shown = _rows(path, checkpoint="best", attack="pgd-20")
    assert [(row["seed"], row["run_id"]) for row in shown[:2]] == [("0", new.run_id), ("1", run_spec(seed=1).run_id)]
    assert shown[0]["average"] == "0.8750"
    assert shown[2]["seeds"] == "2"


def test_a_mean_over_seeds_does_not_mix_settings(tmp_path):
    results = tmp_path / "results"
    old = [run_spec(seed=seed, recipe=Recipe(epochs=5)) for seed in (0, 1)]
    new = run_spec(recipe=Recipe(epochs=6))
    for spec in old:
        store(results, spec, created="2026-01-01")
    store(results, run_spec("trades"), created="2025-01-01")
    store(results, new, created="2026-01-02")
    (path,) = build_board(tmp_path)
    shown = _rows(path, checkpoint="best", attack="clean")
    assert [(row["method"], row["seed"], row["seeds"]) for row in shown] == [
        *[("sat", seed, "1") for seed in ("0", "mean", "std")],
        *[("trades", seed, "1") for seed in ("0", "mean", "std")],
    ]
    assert shown[0]["run_id"] == new.run_id


def test_a_student_is_named_by_its_teacher_and_the_teacher_has_rows_of_its_own(tmp_path):
    teacher = run_spec("trades", role="teacher")
    store(tmp_path / "results", teacher)
    store(tmp_path / "results", run_spec(teacher=teacher))
    store(tmp_path / "results", run_spec("rslad", teacher="file:given.safetensors#abc"))
    (path,) = build_board(tmp_path)
    found = {row["method"]: row["teacher"] for row in _rows(path, seed="0", checkpoint="best", attack="clean")}
    assert found == {"rslad": "file:given.safetensors#abc", "sat": teacher.run_id, "teacher": ""}


def test_two_protocols_in_one_version_are_refused(tmp_path):
    store(tmp_path / "results", run_spec())
    (path,) = build_board(tmp_path)
    before = path.read_bytes()
    other = store(tmp_path / "results", run_spec("trades", protocol="a2"))
    with pytest.raises(InvalidInput, match=r"protocol a2 differs from a1.*a changed protocol needs a new") as caught:
        build_board(tmp_path)
    assert str(other.run) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"best": ["clean"]}, r"the best of its protocol, \['clean'\] differs from \['clean', 'pgd-20'\]"),
        ({"last": []}, r"the last of its protocol, \[\] differs from \['clean'\]"),
        ({"metrics": 2}, "the metrics of its protocol, 2 differs from None"),
    ],
)
def test_one_protocol_has_one_list_of_attacks_and_one_schema(tmp_path, change, what):
    """Otherwise a run without the strong attacks would lead: its union is that of the weak ones."""
    first = store(tmp_path / "results", run_spec())
    (path,) = build_board(tmp_path)
    before = path.read_bytes()
    protocol = first.read()["protocols"]["1"]
    store(tmp_path / "results", run_spec("trades"), protocols={"1": {**protocol, **change}})
    with pytest.raises(InvalidInput, match=what):
        build_board(tmp_path)
    assert path.read_bytes() == before


def test_text_that_is_no_unicode_is_escaped(tmp_path):
    """JSON can hold half of a surrogate pair, which UTF-8 cannot."""
    store(tmp_path / "results", run_spec(), names=("cat", "do\ud800g"))
    (path,) = build_board(tmp_path)
    assert r"do\ud800g" in path.read_text(encoding="utf-8")
    assert r"do\ud800g" in set(load_leaderboard(path)["worst_class"].dropna())


def test_versions_and_runs_with_other_settings_have_files_of_their_own(tmp_path):
    results = tmp_path / "results"
    store(results, run_spec())
    store(results, run_spec("sat", 1, version=2, protocol="a2"))
    store(results, run_spec(recipe=Recipe(lr=0.5), custom=True))
    store(results, run_spec(threat=ThreatSection(eps=0.5), custom=True, protocol="a3"))
    paths = build_board(tmp_path)
    assert [path.name for path in paths] == ["v1.csv", "v1.custom-a1.csv", "v1.custom-a3.csv", "v2.csv"]
    assert [len(_rows(path, checkpoint="best", attack="clean", seeds="1")) for path in paths] == [3] * 4
    assert board_name("3", {"custom": False, "hash": "x"}) == "v3"


def test_more_than_twenty_classes_go_to_a_sibling_file(tmp_path):
    labels = list(range(21)) * 2
    predicted = {key: [0, *labels[1:]] for key in ("best/clean", "best/pgd-20", "last/clean")}
    predicted["best/clean"] = [*labels[:-1], 3]
    names = [f"kind {number}" for number in range(21)]
    store(tmp_path / "results", run_spec(), predicted, names=names, labels=labels)
    board, classes = build_board(tmp_path)
    assert (board.name, classes.name) == ("v1.csv", "v1.classes.csv")
    assert board.read_text().splitlines()[0].split(",") == [name for name in COLUMNS if name != "classes"]
    (row,) = _rows(board, seed="0", checkpoint="best", attack="clean")
    assert (row["worst_class"], row["average"]) == ("kind 20", f"{41 / 42:.4f}")
    (sibling,) = _rows(classes, seed="0", checkpoint="best", attack="clean")
    numbered = [f"class_{number}" for number in range(21)]
    keys = ["protocol", "method", "seed", "checkpoint", "attack", "run_id"]
    assert list(sibling) == [*keys, *numbered, *[f"n_{name}" for name in numbered]]
    assert [sibling[name] for name in numbered] == ["1.0000"] * 20 + ["0.5000"]
    assert {sibling[f"n_{name}"] for name in numbered} == {"2"}
    assert {key: sibling[key] for key in keys} == {key: row[key] for key in keys}
    assert len(load_leaderboard(board)) == len(_rows(classes))


def test_a_suite_without_a_complete_run_has_no_board_and_leaves_nothing_behind(tmp_path):
    for suite in ("tiny", "../tiny", ""):
        with pytest.raises(Missing, match="fairbench run"):
            build_board(tmp_path, suite)
    assert list(tmp_path.iterdir()) == []
    RunFolder(tmp_path / "results" / "tiny" / "sat" / "x").write({"status": "trained"})
    with pytest.raises(Missing, match="no complete run"):
        build_board(tmp_path)


def test_results_that_are_damaged_are_named(tmp_path):
    folder = store(tmp_path / "results", run_spec())
    content = folder.verdicts.read_bytes()
    folder.verdicts.write_bytes(content[:-9])
    with pytest.raises(CorruptFile, match=str(folder.verdicts)):
        build_board(tmp_path)
    folder.verdicts.unlink()
    with pytest.raises(CorruptFile, match=str(folder.verdicts)):
        build_board(tmp_path)
    store(tmp_path / "results", run_spec(), {"best/clean": CLEAN, "last/clean": CLEAN})
    with pytest.raises(CorruptFile, match="no verdicts for best/pgd-20"):
        build_board(tmp_path)


def test_figures_do_not_depend_on_other_verdicts_in_the_file(tmp_path):
    spec = run_spec(evaluation=Evaluation(best=("clean",), last=()))
    folder = store(tmp_path / "results", spec, {"best/clean": CLEAN, "best/pgd-20": PGD})
    rows = list(rows_of(folder, folder.read(), "1"))
    assert [(row["checkpoint"], row["attack"], row["average"]) for row in rows] == [
        ("best", "clean", 0.875),
        ("best", "union", 0.875),
    ]


def test_a_board_is_read_back_as_typed_values(tmp_path):
    for seed in (0, 1):
        store(tmp_path / "results", run_spec(seed=seed))
    (path,) = build_board(tmp_path)
    board = fairbench.load_leaderboard(str(path))
    clean = board[(board["checkpoint"] == "best") & (board["attack"] == "clean")].reset_index()
    assert clean["seed"].tolist() == ["0", "1", "mean", "std"]
    assert clean["average"].tolist() == [0.875, 0.875, 0.875, 0.0]
    assert clean["n"].tolist() == [8] * 4
    assert clean["train_seconds"].tolist() == [2.0, 3.0, 2.5, pytest.approx(0.71)]
    assert not clean["quick"].any()
    assert clean["worst_class"].isna().tolist() == [False, False, True, True]
    assert clean["protocol"].tolist() == ["a1"] * 4


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda text: "", "not a leaderboard"),
        (lambda text: "\x00\xff" * 20, "not a leaderboard|missing"),
        (lambda text: "a,b\n1,2\n", "row 1: column 'schema' is missing"),
        (lambda text: text.splitlines()[0] + "\n", "has no rows"),
        (lambda text: text.replace("worst_lo", "worst_low", 1), "row 1: column 'worst_lo' is missing"),
        (lambda text: text.replace("gini", "gap", 1), "row 1: column 'gini' is missing"),
        (lambda text: text.replace("class_1,", "class_0,", 1), "row 1: a column occurs twice"),
        (lambda text: text.replace(",0.3750,", ",a lot,", 1), "row 3, column 'average': 'a lot' is not a fraction"),
        (lambda text: text.replace(",0.3750,", ",37.5,", 1), "row 3, column 'average': '37.5' is not a fraction"),
        (lambda text: text.replace(",0.3750,", ",nan,", 1), "row 3, column 'average': 'nan' is not a fraction"),
        (lambda text: text.replace(",0.3750,", ",,", 1), "row 3, column 'average': empty"),
        (lambda text: text.replace(",2.00,", ",two,", 1), "row 2, column 'train_seconds': 'two' is not a number"),
        (
            lambda text: text.replace("\n2,tiny", "\n7,tiny", 1),
            "row 2, column 'schema': 7, but this fairbench reads at most 3",
        ),
        (lambda text: text + "2,tiny\n", r"row 17: 2 cells, expected 56"),
        (lambda text: text[: len(text) // 2], r"row \d+: \d+ cells, expected 56|not a leaderboard|column"),
        (lambda text: text.replace("a1,sat", "a1,,sat", 1), "row 2: 57 cells, expected 56"),
    ],
)
def test_a_broken_board_is_one_line_with_the_row_and_the_column(tmp_path, damage, expected):
    store(tmp_path / "results", run_spec())
    (path,) = build_board(tmp_path)
    path.write_text(damage(path.read_text()), encoding="latin-1")
    with pytest.raises(CorruptFile, match=expected) as caught:
        load_leaderboard(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_board_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(Missing, match="no such leaderboard"):
        load_leaderboard(tmp_path / "v1.csv")
    with pytest.raises(CorruptFile, match="not a leaderboard"):
        load_leaderboard(tmp_path)


def test_a_build_imports_neither_torch_nor_pandas(tmp_path):
    store(tmp_path / "results", run_spec())
    program = (
        "import sys\nfrom fairbench.cli import app\n"
        f"assert not app(['leaderboard', 'build', 'tiny', '--out', {str(tmp_path)!r}], standalone_mode=False)\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'fsspec'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "leaderboards" / "tiny" / "v1.csv")


def test_a_damaged_run_leaves_the_boards_as_they_were(tmp_path):
    names = [f"class-{number}" for number in range(30)]
    labels = list(range(30)) * 2
    for seed in (0, 1):
        keys = ("best/clean", "best/pgd-20", "last/clean")
        store(tmp_path / "results", run_spec(seed=seed), dict.fromkeys(keys, labels), names=names, labels=labels)
    paths = build_board(tmp_path)
    before = [path.read_bytes() for path in paths]
    assert len(paths) == 2
    # the run that comes last in both files: all rows before it have been written by then
    RunFolder(tmp_path / "results" / run_spec(seed=1).folder).verdicts.write_bytes(b"")
    with pytest.raises(CorruptFile, match=r"verdicts\.npz: content does not match"):
        build_board(tmp_path)
    assert [path.read_bytes() for path in paths] == before
    assert {path for path in paths[0].parent.iterdir() if path.suffix != ".lock"} == set(paths)


def test_a_suite_that_asks_for_the_newer_metrics_has_a_board_of_schema_3(tmp_path):
    asked = {
        "best": ["clean", "pgd-20"],
        "last": ["clean"],
        "quick": False,
        "custom": False,
        "hash": "a1",
        "metrics": 2,
    }
    for seed in (0, 1):
        store(tmp_path / "old" / "results", run_spec(seed=seed))
        store(tmp_path / "new" / "results", run_spec(seed=seed), protocols={"1": asked})
    old, new = (load_leaderboard(*build_board(tmp_path / name)) for name in ("old", "new"))
    text = (tmp_path / "new" / "leaderboards" / "tiny" / "v1.csv").read_text(encoding="utf-8")
    assert {line.partition(",")[0] for line in text.splitlines()} == {"schema", "3"}
    runs = old["seed"].isin(["0", "1"])
    assert (new.loc[runs, "worst_lo"] > old.loc[runs, "worst_lo"]).any()
    assert (new.loc[runs, "worst_lo"] >= old.loc[runs, "worst_lo"]).all()
    assert new.drop(columns="worst_lo").equals(old.drop(columns="worst_lo"))
    suite = Evaluation(best=("clean",), last=("clean",))
    assert "metrics" not in suite.model_dump(exclude_none=True)
    assert suite.model_copy(update={"metrics": 2}).model_dump(exclude_none=True)["metrics"] == 2
