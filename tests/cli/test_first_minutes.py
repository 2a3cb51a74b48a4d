"""The first commands of a new user: version, hints, and tables that fit the terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fairbench import cli
from fairbench.version import __version__

COMMAND = [sys.executable, "-m", "fairbench.cli"]
COLUMNS = (60, 80, 120)
WIDTHS = """
import os, sys
from contextlib import suppress
from fairbench.cli import main
for columns in sys.argv[1:]:
    os.environ["COLUMNS"] = columns
    sys.argv = ["fairbench", "leaderboard", "show", "digits/v3"]
    with suppress(SystemExit):
        main()
    sys.stdout.flush()
    os.write(1, b"\\f\\n")
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}


def _call(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**ENVIRONMENT, **environment}
    return subprocess.run([*COMMAND, *words], cwd=folder, env=settings, capture_output=True, text=True)


@pytest.fixture(scope="module")
def on_a_terminal(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What `show` prints for the committed board on a terminal, by its columns; one process has all of them in turn."""
    master, slave = pty.openpty()
    command = [sys.executable, "-c", WIDTHS, *map(str, COLUMNS)]
    with subprocess.Popen(command, cwd=tmp_path_factory.mktemp("shown"), env=ENVIRONMENT, stdout=slave):
        os.close(slave)
        found = io.BytesIO()
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # Linux says so when the other side has closed
                break
            if not piece:
                break
            found.write(piece)
    os.close(master)
    shown = found.getvalue().decode().replace("\r\n", "\n").split("\f\n")
    return dict(zip(COLUMNS, shown, strict=False))


def _plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


@pytest.mark.parametrize(
    ("columns", "shown", "dropped"),
    [
        (60, ("ranks 95 %",), ("average %", "NSD")),
        (80, ("average %", "ranks 95 %"), ("NSD",)),
        (120, ("class",), ("NSD",)),
    ],
)
def test_a_table_fits_the_terminal_and_says_what_it_leaves_out(on_a_terminal, columns, shown, dropped):
    lines = _plain(on_a_terminal[columns])
    assert max(map(len, lines[:-1])) <= columns  # the last line is the path of the file
    heads = [line.strip().strip("┃").split("┃") for line in lines if line.startswith("┃")]  # a heading may go on below
    cells = [" ".join(" ".join(parts).split()) for parts in zip(*heads, strict=True)]
    assert {"#", "method", "worst class %", *shown} <= set(cells)
    assert not set(dropped) & set(cells)
    text = " ".join(lines)
    assert "Not shown, because the terminal is too narrow: " in text
    assert "fair_mtard_released *" in text
    assert "24.7 ± 5.0" in text
    assert "…" not in text


def test_methods_are_grouped_by_kind_and_by_what_they_need(tmp_path):
    blocks = _call("methods", folder=tmp_path).stdout.split("\n\n")
    groups = {block.partition(":\n")[0]: block for block in blocks}
    assert "  sat " in groups["base objectives"]
    assert "  rslad " in groups["base objectives, with a teacher"]
    assert "  absld " in groups["class policies on rslad, with a teacher"]
    assert "  faal " in groups["base objectives, with a warm start"]


def test_the_version_is_printed(tmp_path):
    done = _call("--version", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"fairbench {__version__}\n")


def test_a_shell_completes_commands_suites_and_methods(tmp_path):
    def completed(words: str) -> set[str]:
        asked = {"_FAIRBENCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        program = "import sys; sys.argv = ['fairbench']; from fairbench.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env={**ENVIRONMENT, **asked}, capture_output=True, text=True
        )
        return set(done.stdout.split())

    assert "leaderboard" in completed("fairbench lea")
    assert completed("fairbench run dig") == {"digits", "digits-ablations", "digits-sensitivity"}
    assert "sat,trades" in completed("fairbench run digits --methods sat,tra")


def test_the_help_groups_the_commands_by_job(tmp_path):
    shown = _call("--help", folder=tmp_path, COLUMNS="100").stdout
    panels = dict(re.findall(r"╭─ (.*?) ─+╮\n(.*?)╰", shown, flags=re.DOTALL))
    grouped = {title: re.findall(r"^│ (\w[a-z-]+)  ", body, flags=re.MULTILINE) for title, body in panels.items()}
    assert grouped.pop("Options") == []
    assert grouped == {
        "Benchmark methods": ["run", "tune", "show", "explain", "leaderboard", "results"],
        "Audit models": ["evaluate", "check"],
        "Write methods": ["new-method", "report"],
        "Look up names and the state of this machine": [
            *("suites", "doctor", "methods", "policies", "datasets", "models", "attacks", "loggers"),
        ],
    }


def test_no_help_loses_what_stands_in_brackets(tmp_path):
    lost = []

    def walk(command: typer.core.TyperGroup, words: tuple[str, ...]) -> None:
        for name, inner in command.commands.items():
            if hasattr(inner, "commands"):
                walk(inner, (*words, name))
            lost.extend(
                (*words, name, p.name) for p in inner.params if re.search(r"\[[a-z#@/]", getattr(p, "help", "") or "")
            )

    walk(typer.main.get_command(cli.app), ())
    assert lost == []  # rich would take it for markup
    assert "(default: the suite's)" in " ".join(_call("run", "--help", folder=tmp_path, COLUMNS="200").stdout.split())


def test_a_setting_without_its_section_and_files_that_are_missing_name_the_way(tmp_path):
    done = _call("run", "digits", "--set", "epochs=3", "--dry-run", folder=tmp_path)
    assert done.stderr.splitlines()[-1].endswith("did you mean 'recipe.epochs' or 'tuning.epochs'?")
    done = _call("run", "cifar10-micro", "--dry-run", folder=tmp_path, FAIRBENCH_DATA=str(tmp_path))
    assert done.stderr.splitlines()[-1].endswith("get it with: fairbench datasets get cifar10")


def test_a_new_method_is_followed_by_the_next_commands(tmp_path):
    done = _call("new-method", "mine", folder=tmp_path)
    steps = [line for line in done.stdout.splitlines() if line.startswith("Next: ")]
    assert [step.split("   ")[0] for step in steps] == [
        "Next: fairbench methods check mine",
        "Next: python -m pytest tests/methods/test_mine.py",
        "Next: fairbench tune digits --methods mine",
        "Next: fairbench run digits --methods trades,mine --seeds 0,1,2",
    ]


def test_a_copy_of_an_installed_method_is_the_same_and_another_one_is_named_when_it_is_used(tmp_path):
    source = Path(__file__).parents[2] / "methods"
    (tmp_path / "methods").mkdir()
    for name in ("sat", "trades"):
        (tmp_path / "methods" / f"{name}.py").write_bytes((source / f"{name}.py").read_bytes())
    with (tmp_path / "methods" / "trades.py").open("a", encoding="utf-8") as handle:
        handle.write("# edited\n")
    assert _call("run", "digits", "--methods", "sat", "--dry-run", folder=tmp_path).returncode == 0
    done = _call("run", "digits", "--methods", "trades", "--dry-run", folder=tmp_path)
    assert done.returncode == 2
    assert "method 'trades' is registered twice: in " in done.stderr.splitlines()[-1]
    assert _call("methods", folder=tmp_path).returncode == 0
