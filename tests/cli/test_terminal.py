from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairbench.cli import main
from fairbench.cli.terminal import printable
from fairbench.errors import InvalidInput

MAIN = """
import typer
from fairbench.cli import app, main

@app.command()
def outcome(code: int, raises: str = ""):
    print("x" * 100_000)
    if raises:
        raise type(raises, (BaseException,), {})("odd")
    raise typer.Exit(code)

main()
"""


def _process(*words: str, stdout: Any = subprocess.PIPE, stderr: Any = subprocess.PIPE) -> tuple[int, str]:
    """Run a command that prints more than a pipe holds; returns its exit code and what it said on stderr."""
    command = [sys.executable, "-c", MAIN, "outcome", *words]
    done = subprocess.run(command, stdout=stdout, stderr=stderr, text=True, timeout=100, check=False)
    return done.returncode, done.stderr or ""


class _Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def _printed(text: str, *, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    stream = _Stream(terminal)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with printable():
            print(text)
        assert sys.stdout is stream
    return stream.getvalue()


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x1b]0;title\x07", "\x1b[1A\x1b[2K", "\r", "\x9b31m", "\x7f", "\x08", "\u202ekcab", "\x1b[8m"]
)
@pytest.mark.parametrize("terminal", [True, False])
def test_what_would_steer_a_terminal_is_shown_as_an_escape(text, terminal, monkeypatch):
    found = _printed(f"a{text}b", terminal=terminal, monkeypatch=monkeypatch)
    assert not set(text) & set(found) - set("[2JAK18mtileknacb]0;3")
    assert found.startswith("a\\")


def test_letters_are_coloured_on_a_terminal_alone(monkeypatch):
    text = "\x1b[1;31mred\x1b[0m"
    assert _printed(text, terminal=True, monkeypatch=monkeypatch) == f"{text}\n"
    assert _printed(text, terminal=False, monkeypatch=monkeypatch) == "\\x1b[1;31mred\\x1b[0m\n"


def test_what_is_said_on_stderr_is_escaped_too(monkeypatch):
    """The stderr of a terminal stays as it is: the progress display moves its cursor."""
    for terminal, expected in ((False, "a\\x1b[2Jb\n"), (True, "a\x1b[2Jb\n")):
        stream = _Stream(terminal)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            with printable():
                print("a\x1b[2Jb", file=sys.stderr)
            assert sys.stderr is stream
        assert stream.getvalue() == expected


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_text_stays_as_it_is(text):
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert _printed(f"{text}\n\tx", terminal=False, monkeypatch=monkeypatch) == f"{text}\n\tx\n"


def test_errors_hold_no_control_characters():
    assert str(InvalidInput("a\x1b[2Jb\nc")) == "a\\x1b[2Jb\nc"


@pytest.mark.parametrize("code", [0, 1])
def test_a_reader_that_leaves_does_not_change_the_exit_code(code):
    reading, writing = os.pipe()
    os.close(reading)
    assert _process(str(code), stdout=writing) == (code, "")
    os.close(writing)


def test_output_that_cannot_be_written_is_no_regression():
    with Path("/dev/full").open("w") as full:
        code, said = _process("0", stdout=full)
        assert (code, said.count("\n")) == (2, 1)
        assert _process("0", "--raises", "Odd", stdout=full, stderr=full) == (2, "")


def test_whatever_a_plug_in_raises_is_one_line_and_no_regression():
    assert _process("0", "--raises", "Odd") == (2, "fairbench: unexpected Odd: odd; --debug shows the traceback\n")


def test_a_command_without_stdout_ends_with_its_own_exit_code():
    words = ["sh", "-c", '"$@" >&-', "sh", sys.executable, "-c", MAIN, "outcome", "1"]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("name", ["COLUMNS", "LINES"])
@pytest.mark.parametrize("size", ["1" * 5000, "1" * 4000, "99999", "0", "-3", "\u00b2", "\u0663", "80 ", "wide", ""])
def test_a_size_of_the_terminal_that_is_none_is_ignored(name, size, monkeypatch, capsys):
    shown = []
    for value in (None, size):
        monkeypatch.setattr("signal.signal", lambda *_: None)  # the handlers of the tests stay
        monkeypatch.setattr(sys, "argv", ["fairbench", "evaluate", "--help"])
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 0
        shown.append(capsys.readouterr())
    assert shown[0] == shown[1]


def test_a_width_of_the_terminal_is_used(monkeypatch, capsys):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["fairbench", "evaluate", "--help"])
    lengths = []
    for width in (60, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit):
            main()
        lengths.append(max(map(len, capsys.readouterr().out.splitlines())))
    assert lengths == [60, 100]
