from __future__ import annotations

import shlex
import subprocess

import pytest
from stored import build_board, run_spec, store

from fairbench.errors import InvalidInput, Missing, UnknownName
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.lineage import find_row, find_rows, lineage, render_lineage, repeat, reproduce
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite


def test_a_row_is_found_by_its_run_or_by_what_it_is(tmp_path):
    for version, protocol in ((1, "a1"), (2, "a2"), (10, "a3")):
        store(tmp_path / "results", run_spec("sat", version, version=version, protocol=protocol))
    store(tmp_path / "results", run_spec("sat", 1, version=10, protocol="a3"), created="2027")
    boards = build_board(tmp_path)
    path, row = find_row("sat/1", boards)
    assert (path.name, row["checkpoint"], row["attack"], row["seed"]) == ("v10.csv", "best", "union", "1")
    path, row = find_row(run_spec("sat", 2).run_id, boards)
    assert (path.name, row["attack"], row["seed"]) == ("v2.csv", "union", "2")
    assert find_row("sat/10/last/clean", boards)[1]["weights_hash"] == "l"
    with pytest.raises(UnknownName, match="unknown row 'sta/1'; did you mean 'sat/1'"):
        find_row("sta/1", boards)
    with pytest.raises(UnknownName, match="did you mean 'sat/1/best/pgd-20'"):
        find_row("sat/1/best/pgd-2", boards)
    with pytest.raises(Missing, match="no leaderboard here"):
        find_row("sat/1", [])
    other = tmp_path / "leaderboards" / "other" / "v1.csv"
    other.parent.mkdir()
    other.write_bytes(boards[0].read_bytes())
    with pytest.raises(InvalidInput, match="row sat/1: several boards have it; name one with --board tiny or --board"):
        find_row("sat/1", [*boards, other])
    assert [path for path, _ in find_rows("sat/1", [*boards, other])] == [boards[0].with_name("v10.csv"), other]
    with pytest.raises(
        InvalidInput, match="sat is a method: name one of its runs by a seed, as in `fairbench show sat/0`"
    ):
        find_row("sat", boards)


def test_where_a_row_comes_from(tmp_path):
    spec = run_spec("sat")
    store(tmp_path / "results", spec)
    (board,) = build_board(tmp_path)
    facts = lineage(*find_row("sat/0/best/clean", [board]))
    assert facts["row"]["run_id"] == spec.run_id
    assert facts["figures"]["average"] == 0.875
    assert facts["origin"]["packages"] == "python=3.11.7;torch=2.15.0;cuda=12.8"
    assert set(facts["hashes"]) == {"config_hash", "recipe_hash", "data_hash", "split_hash", "weights_hash"}
    assert facts["files"]["folder"] == str(tmp_path / "results" / spec.folder)
    text = render_lineage(facts)
    assert "cuda=12.8" in text
    assert text.splitlines()[-3:] == [
        "  git checkout c0ffee",
        "  pip install torch==2.15.0",
        "  fairbench run tiny, twice --methods sat --seeds 0",
    ]
    facts["origin"]["dirty"] = True
    assert "uncommitted changes" in render_lineage(facts)
    assert "\nfiles\n  folder " in render_lineage(facts)
    assert "\nfiles\n  not beside this board\n" in render_lineage({**facts, "files": {"folder": None}})


def test_seeds_of_one_configuration_share_its_hash_and_a_split_its_own(tmp_path):
    for seed in (0, 1):
        store(tmp_path / "results", run_spec(seed=seed))
    store(tmp_path / "results", run_spec("trades"))
    (path,) = build_board(tmp_path)
    board = load_leaderboard(path)
    assert board.groupby("method")["config_hash"].nunique().tolist() == [1, 1]
    assert board["config_hash"].nunique() == 2
    assert board["split_hash"].nunique() == 1


@pytest.mark.parametrize(
    ("command", "method", "expected"),
    [
        ("fairbench run digits", "sat", "fairbench run digits --methods sat --seeds 3"),
        (
            "fairbench run digits --methods all --seeds 0,1,2,3 --jobs 2 --publish",
            "sat",
            "fairbench run digits --methods sat --seeds 3",
        ),
        (
            "fairbench run --out=x --quick 'my suite.yaml' --seeds=3 --plugin my.py",
            "sat+p",
            "fairbench run --quick 'my suite.yaml' --plugin my.py --methods sat+p --seeds 3",
        ),
        (
            "fairbench run digits --set recipe.epochs=3 --set mart.beta=2 --set=sat.x=1 --set p.rate=1 --set model=m",
            "sat+p",
            "fairbench run digits --set recipe.epochs=3 --set=sat.x=1 --set p.rate=1 --set model=m "
            "--methods sat+p --seeds 3",
        ),
        (
            "fairbench run digits --methods absld --set absld.x=1 --jobs 2",
            "teacher",
            "fairbench run digits --methods absld --set absld.x=1",
        ),
    ],
)
def test_a_command_is_narrowed_to_the_row(command, method, expected):
    row = {"command": command, "method": method, "base": "sat", "policies": "p", "seed": "3"}
    assert reproduce({**row, "commit": None, "packages": None}) == [expected]
    assert reproduce({**row, "commit": None, "packages": None, "command": None}) == []


def test_the_seeds_of_one_method_are_run_again_by_one_command():
    row = {"method": "sat", "base": "sat", "policies": None}
    made = [("0", "--publish"), ("1", "--jobs 2"), ("2", "--quick"), ("1", "--jobs 2")]
    rows = [{**row, "seed": seed, "command": f"fairbench run digits --seeds {seed} {how}"} for seed, how in made]
    unknown = [{**row, "seed": "5", "command": command} for command in (None, "make all", "fairbench run a\u202eb")]
    assert repeat([*rows, *unknown]) == [
        "fairbench run digits --methods sat --seeds 0,1",
        "fairbench run digits --quick --methods sat --seeds 2",
    ]
    teachers = [{**one, "method": "teacher"} for one in rows[:1]]
    assert repeat(teachers) == ["fairbench run digits --seeds 0"]


def test_the_narrowed_command_plans_the_very_run(make_suite, tmp_path):
    suite = load_suite(str(make_suite(tmp_path)))
    command = "fairbench run tiny.yaml --methods sat,absld --seeds 0,1 --set absld.temperature_rate=0.2 --jobs 2"
    overrides = {"absld.temperature_rate": 0.2}
    planned = plan(suite, methods=["sat", "absld"], seeds=[0, 1], overrides=overrides, command=command)
    students = [spec for spec in planned if spec.role == "student"]
    assert len(students) == 4
    for spec in students:
        row = {"command": command, "method": spec.label, "base": spec.method.base, "seed": str(spec.seed)}
        row |= {"policies": "+".join(spec.method.policies), "commit": "", "packages": ""}
        words = shlex.split(reproduce(row)[-1])
        method, seed = words[words.index("--methods") + 1], int(words[words.index("--seeds") + 1])
        again = plan(suite, methods=[method], seeds=[seed], overrides=overrides if "--set" in words else {})
        assert [other.run_id for other in again if other.role == "student"] == [spec.run_id]
        assert ("--set" in words) == (method == "absld")


HOSTILE = [
    "0; rm -rf ~",
    "$(touch ran)",
    "`touch ran`",
    "0\ntouch ran",
    "0 && touch ran",
    "0 | touch ran",
    "--upload-pack=touch ran",
    "-c x",
    "\x1b[2Jtouch ran",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("where", ["commit", "torch", "command", "after run", "method", "seed"])
def test_commands_to_copy_run_fairbench_alone(tmp_path, text, where):
    row = {"commit": "c0ffee", "packages": "torch=2.9.0+cpu", "command": "fairbench run digits", "method": "sat"}
    row |= {"base": "sat", "policies": "", "seed": "3"}
    change = {
        "commit": {"commit": text},
        "torch": {"packages": f"python=3.12;torch={text}"},
        "command": {"command": text},
        "after run": {"command": f"fairbench run digits {text}"},
        "method": {"method": text},
        "seed": {"seed": text},
    }[where]
    (tmp_path / "bin").mkdir()
    for name in ("git", "pip", "fairbench"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / "bin" / name).chmod(0o755)
    for command in reproduce(row | change):
        assert shlex.split(command)[0] in {"git", "pip", "fairbench"}
        subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": "/none"},
            check=True,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]


def test_a_command_with_quotes_that_do_not_end_is_left_out():
    row = {"commit": "unknown", "packages": "torch", "command": "fairbench run 'digits", "method": "sat", "seed": "0"}
    assert reproduce(row) == []


def test_no_cell_makes_a_line_of_its_own_or_steers_the_terminal():
    sections = ("row", "figures", "origin", "hashes", "files", "again")
    facts = {name: {} for name in sections} | {
        "row": {"board": "x\nto make it again\n  rm -rf ~", "suite": "\x1b]0x\x07"}
    }
    facts["origin"] = {"dirty": False}
    lines = render_lineage(facts).splitlines()
    assert r"x\nto make it again\n  rm -rf ~" in lines[1]
    assert r"\x1b]0x\x07" in lines[2]
    assert "  rm -rf ~" not in lines


def test_a_run_that_is_not_finished_has_no_processor_yet(tmp_path):
    folder = store(tmp_path / "results", run_spec("sat"))
    (board,) = build_board(tmp_path)
    folder.write({"status": "trained"})
    facts = lineage(*find_row("sat/0/best/clean", [board]))
    assert facts["origin"]["commit"] == "c0ffee"
    assert facts["origin"]["processor"] == ""
