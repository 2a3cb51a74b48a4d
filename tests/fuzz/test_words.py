"""Suites, settings and arguments that are nearly right, and some that are not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from fuzz.mutation import bytes_near, junk, texts, trees_near
from hypothesis import strategies as st

COMMANDS = [
    ["methods"], ["methods", "show"], ["methods", "check"], ["policies", "show"], ["datasets", "show"], ["report"],
    ["models", "show"], ["attacks", "show"], ["suites"], ["leaderboard"], ["leaderboard", "build"], ["new-method"],
    ["leaderboard", "show"], ["leaderboard", "compare"], ["leaderboard", "html"], ["evaluate"], ["check"], ["explain"],
]  # fmt: skip
OPTIONS = [
    "--json", "--out", "--publish", "--plugin", "--dataset", "--attacks", "--eps", "--norm", "--seed", "--batch-size",
    "--methods", "--seeds", "--set", "--jobs", "--quick", "--folder", "--baseline", "--candidate", "--max-drop",
    "--metric", "--attack", "--help", "--debugg", "-h", "--", "--launcher", "--address",
]  # fmt: skip
WORDS = [
    "sat", "digits", "pgd-20", "clean", "union", "worst", "0.1", "8/255", "1", "-1", "1e999", "sat+absld_temperatures",
    "pgd-20:step=0.003,iterate=last", "npz:a,b", "folder:.", "file:x", "L2", "local", "recipe.epochs=3", "../x", "/",
]  # fmt: skip
MERGES = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30)
)
words = st.one_of(st.sampled_from(WORDS), st.sampled_from(OPTIONS), texts)


def test_suites_as_trees(bench, command, fuzz):
    tree = yaml.safe_load(bench.suite.read_text())

    def body(tree: object) -> None:
        Path("suite.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        command("run", "suite.yaml", "--dry-run")
        assert [path.name for path in Path().iterdir()] == ["suite.yaml"]

    fuzz(trees_near(tree), body)


def test_suites_as_bytes(bench, command, fuzz):
    def body(content: bytes) -> None:
        Path("suite.yaml").write_bytes(content)
        command("run", "suite.yaml", "--dry-run")
        assert [path.name for path in Path().iterdir()] == ["suite.yaml"]

    fuzz(bytes_near(bench.suite.read_bytes()), body)


def test_settings(bench, command, fuzz):
    tree = yaml.safe_load(bench.suite.read_text())
    keys = [f"{section}.{name}" for section, fields in tree.items() if isinstance(fields, dict) for name in fields]
    key = st.one_of(st.sampled_from([*keys, *tree, "sat", "sat.x", "teacher.recipe"]), texts)

    def body(setting: tuple[str, object]) -> None:
        command("run", bench.suite, "--dry-run", "--set", f"{setting[0]}={setting[1]}")
        assert list(Path().iterdir()) == []

    fuzz(st.tuples(key, junk), body)


def test_arguments_of_run(bench, command, fuzz):
    def body(arguments: list[str]) -> None:
        command("run", bench.suite, "--dry-run", *arguments)
        assert list(Path().iterdir()) == []

    fuzz(st.lists(words, max_size=5), body)


def test_arguments(command, fuzz):
    def body(arguments: tuple[list[str], list[str]]) -> None:
        command(*arguments[0], *arguments[1])

    fuzz(st.tuples(st.sampled_from(COMMANDS), st.lists(words, max_size=5)), body)


@pytest.mark.parametrize("depth", [3, 9, 30])
def test_a_suite_that_unfolds_to_billions_of_values_is_one_line(command, depth):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, depth)]
    Path("bomb.yaml").write_text("\n".join(lines) + f"\nmethods: *a{depth - 1}\n")
    assert command("run", "bomb.yaml", "--dry-run") == 2


@pytest.mark.parametrize(
    "text",
    [
        MERGES,
        "a: &a [*a]\nmethods: *a\n",
        "name: !!python/object/apply:os.system ['touch ran']\n",
        "!!python/name:os.system\n",
        "? {a: b}\n: c\n",
        "methods: " + "[" * 100_000,
        "methods: 2020-02-31\n",
        "methods: [" + "sat, " * 400_000 + "]\n",
        "seeds: 1" + "0" * 5000 + "\n",
    ],
    ids=["merges", "itself", "python", "name", "key", "deep", "date", "long", "digits"],
)
def test_a_suite_that_wants_to_harm_is_one_line_and_runs_nothing(command, text):
    Path("bad.yaml").write_text(text)
    assert command("run", "bad.yaml", "--dry-run") == 2
    assert [path.name for path in Path().iterdir()] == ["bad.yaml"]
