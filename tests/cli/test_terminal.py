from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairbench.cli.terminal import printable
from fairbench.errors import InvalidInput


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


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_text_stays_as_it_is(text):
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert _printed(f"{text}\n\tx", terminal=False, monkeypatch=monkeypatch) == f"{text}\n\tx\n"


def test_errors_hold_no_control_characters():
    assert str(InvalidInput("a\x1b[2Jb\nc")) == "a\\x1b[2Jb\nc"
