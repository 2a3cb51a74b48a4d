from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from stored import build_board, run_spec, store

from fairbench.errors import CorruptFile, UnknownName
from fairbench.leaderboard import columns
from fairbench.leaderboard.board import load_leaderboard, write_leaderboards


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("schema")
    for seed in (0, 1):
        store(root / "results", run_spec(seed=seed))
    (path,) = build_board(root)
    return path


def _edited(board: Path, tmp_path: Path, row: int, changes: dict[str, str]) -> Path:
    """A copy of the board with cells of one row replaced; row 1 is the header."""
    with board.open(newline="") as handle:
        header, *rows = csv.reader(handle)
    for name, text in changes.items():
        rows[row - 2][header.index(name)] = text
    return _written(tmp_path / "v1.csv", [header, *rows])


def _written(path: Path, lines: list[list[str]]) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    path.write_text(text.getvalue())
    return path


def _as_schema_1(board: Path, path: Path) -> Path:
    """The file that fairbench wrote before columns had a schema 2: three columns fewer."""
    with board.open(newline="") as handle:
        header, *rows = csv.reader(handle)
    assert header[-3:] == ["packages", "split_hash", "config_hash"]
    return _written(path, [header[:-3], *(["1", *row[1:-3]] for row in rows)])


def test_an_older_board_is_read_as_if_it_were_of_this_schema(board, tmp_path):
    old = load_leaderboard(_as_schema_1(board, tmp_path / "v1.csv"))
    new = load_leaderboard(board)
    assert old["schema"].tolist() == [3] * len(old)
    assert list(old.columns) == list(new.columns)
    added = ["packages", "split_hash", "config_hash"]
    assert old[added].isna().all(axis=None)
    assert new.loc[new["run_id"].notna(), added].notna().all(axis=None)
    assert old.drop(columns=added).equals(new.drop(columns=added))


def test_rows_over_seeds_have_no_interval_ends(board, tmp_path):
    """Boards of schema 2 hold means of ends, which are read as none; a file of schema 3 that has them is refused."""
    ends = ["average_lo", "average_hi", "worst_lo", "worst_hi"]
    frame = load_leaderboard(board)
    over = frame["seed"].isin(["mean", "std"])
    assert frame.loc[over, ends].isna().all(axis=None)
    assert frame.loc[~over, ends].notna().all(axis=None)
    with board.open(newline="") as handle:
        header, *rows = csv.reader(handle)
    newer = [["3", *row[1:]] for row in rows]
    with pytest.raises(CorruptFile, match=r"column 'average_lo': 0\.\d+, but a row over seeds has no interval"):
        load_leaderboard(_written(tmp_path / "v1.csv", [header, *newer]))


@pytest.mark.parametrize(
    ("row", "changes", "expected"),
    [
        (2, {"schema": "4"}, "row 2, column 'schema': 4, but this fairbench reads at most 3: upgrade it"),
        (4, {"schema": "1"}, "row 4, column 'schema': '1', expected 2"),
        (2, {"schema": "two"}, "row 2, column 'schema': 'two', expected 1 to 3"),
        (2, {"schema": "0"}, "row 2, column 'schema': '0', expected 1 to 3"),
        (3, {"seed": "1.5"}, "row 3, column 'seed': '1.5' is not a whole number, mean or std"),
        (3, {"checkpoint": "middle"}, "row 3, column 'checkpoint': 'middle' is not one of best, last"),
        (3, {"selection": "hope"}, "row 3, column 'selection': 'hope' is not one of validation, test, last"),
        (3, {"quick": "yes"}, "row 3, column 'quick': 'yes' is not one of True, False"),
        (3, {"n": "0"}, "row 3, column 'n': '0' is not a whole number of at least 1"),
        (3, {"n": "8.5"}, "row 3, column 'n': '8.5' is not a whole number"),
        (3, {"worst": "1.01"}, r"row 3, column 'worst': '1.01' is not a fraction in \[0,1\]"),
        (3, {"class_1": "inf"}, r"row 3, column 'class_1': 'inf' is not a fraction in \[0,1\]"),
        (3, {"nsd": "-0.1"}, "row 3, column 'nsd': '-0.1' is not a number of at least 0"),
        (3, {"train_seconds": "-1"}, "row 3, column 'train_seconds': '-1' is not a number of at least 0"),
        (3, {"weights_hash": ""}, "row 3, column 'weights_hash': empty"),
        (3, {"worst_lo": "0.9", "worst_hi": "0.95"}, "row 3, column 'worst_lo': 0.9 is above 'worst'"),
        (3, {"average_hi": "0"}, "row 3, column 'average': .* is above 'average_hi', 0"),
        (3, {"attack": "clean"}, "row 3, column 'attack': the same run and attack as row 2"),
        (4, {"protocol": "a2"}, "row 4, column 'protocol': 'a2' differs from row 2's"),
        (12, {"average": ""}, "row 12, column 'average': empty"),
        (3, {"class_0": "0.4"}, "row 3, column 'average': 0.3750, but its classes give 0.3250"),
        (3, {"class_1": "1"}, "row 3, column 'worst': 0.2500, but its classes give 0.5000"),
        (3, {"worst": "0.3"}, "row 3, column 'worst': 0.3, but its classes give"),
    ],
)
def test_what_breaks_the_schema_is_one_line_with_the_row_and_the_column(board, tmp_path, row, changes, expected):
    path = _edited(board, tmp_path, row, changes)
    with pytest.raises(CorruptFile, match=f"^{re.escape(str(path))}: {expected}") as caught:
        load_leaderboard(path)
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_declared_is_refused(board, tmp_path):
    with board.open(newline="") as handle:
        header, *rows = csv.reader(handle)
    path = _written(tmp_path / "v1.csv", [[*header, "score"], *([*row, "1"] for row in rows)])
    with pytest.raises(CorruptFile, match="row 1: column 'score' is not one of schema 2"):
        load_leaderboard(path)


def test_what_a_reader_would_refuse_is_not_written(board, tmp_path):
    rows = [row.to_dict() for _, row in load_leaderboard(board).iterrows()][:2]
    path = tmp_path / "v1.csv"
    rows[1]["worst"] = 1.5
    with pytest.raises(CorruptFile, match=r"v1.csv: row 3, column 'worst': '1.5000' is not a fraction"):
        write_leaderboards({path: list(rows[0])}, rows)
    assert not path.exists()


def test_every_column_says_what_it_holds():
    for name in columns.COLUMNS:
        facts = columns.explain_column(name)
        assert facts["column"] == name
        assert facts["meaning"]
        assert facts["type"]
    assert columns.explain_column("worst")["type"] == "a fraction in [0,1]"
    assert columns.explain_column("class_7") == columns.explain_column("class_0") | {"column": "class_7"}
    assert columns.explain_column("n_class_3")["unit"] == "images"
    assert columns.explain_column("flags")["empty"] == "not checked"
    with pytest.raises(UnknownName, match="did you mean 'worst_class'"):
        columns.column("worstclass")


def test_the_schema_and_its_command_import_neither_torch_nor_pandas():
    program = (
        "import sys\nfrom fairbench.cli import app\n"
        "for words in (['explain'], ['explain', 'worst'], ['explain', '--json'], ['show', '--help']):\n"
        "    assert not app(words, standalone_mode=False)\n"
        "assert not {'torch', 'pandas', 'numpy', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nsd_corrected" in done.stdout


@pytest.mark.parametrize("digits", ["1" + "0" * 400, "9" * 5000, "-" + "9" * 30, "9223372036854775808"])
@pytest.mark.parametrize("name", ["threads", "n", "schema", "seeds", "n_class_0"])
def test_integers_that_no_array_holds_are_named(digits, name):
    with pytest.raises(ValueError, match="a whole number"):
        columns.column(name).parse(digits)


@pytest.mark.parametrize("name", ["class_٣", "class_²", "n_class_१", "class_" + "9" * 5000, "class_3\n"])
def test_columns_of_classes_have_plain_numbers(name):
    with pytest.raises(UnknownName):
        columns.column(name)


@pytest.mark.parametrize("text", ["\u0660.\u0665", "0_1.0", "\uff10.\uff15", "\u00b2"])
def test_numbers_have_plain_digits(board, tmp_path, text):
    with pytest.raises(CorruptFile, match=r"row 2, column 'average': .* is not a fraction in \[0,1\]"):
        load_leaderboard(_edited(board, tmp_path, 2, {"average": text}))


def test_a_row_has_as_many_images_as_its_classes(board, tmp_path):
    with pytest.raises(CorruptFile, match="row 2, column 'n': 999999, but its classes have"):
        load_leaderboard(_edited(board, tmp_path, 2, {"n": "999999"}))


def test_a_file_of_two_schemas_is_not_written(board, tmp_path):
    with board.open(newline="") as handle:
        first, second = list(csv.DictReader(handle))[:2]
    second["schema"] = "3"
    out = tmp_path / "v1.csv"
    with pytest.raises(CorruptFile, match="row 3, column 'schema': '3' differs from row 2's: rows of two schemas"):
        write_leaderboards({out: list(first)}, [first, second])
    assert not out.exists()
