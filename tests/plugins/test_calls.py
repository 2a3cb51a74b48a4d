"""Names with arguments, such as `pgd-20:step=0.003`, parsed and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairbench.errors import InvalidInput
from fairbench.plugins.calls import Call, parse_call, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("0.003", 0.003),
        ("1e-3", 0.001),
        ("8/255", 8 / 255),
        ("-1/4", -0.25),
        ("true", True),
        ("False", False),
        ("last", "last"),
        ("1/0", "1/0"),
        ("", ""),
        ("None", "None"),
        ("9" * 400 + "/1", "9" * 400 + "/1"),
    ],
)
def test_parse_value(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "call", "canonical"),
    [
        ("pgd-20", Call("pgd-20"), "pgd-20"),
        ("pgd-20:", Call("pgd-20"), "pgd-20"),
        (
            "pgd-20:step=0.003,iterate=last",
            Call("pgd-20", {"step": 0.003, "iterate": "last"}),
            "pgd-20:iterate=last,step=0.003",
        ),
        (" pgd : step = 1/4 , on=true", Call("pgd", {"step": 0.25, "on": True}), "pgd:on=True,step=0.25"),
        ("m:path=a:b=c", Call("m", {"path": "a:b=c"}), "m:path=a:b=c"),
    ],
)
def test_parse_call(text, call, canonical):
    assert parse_call(text) == call
    assert str(parse_call(text)) == canonical


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pgd:20", "expected key=value after the colon, got '20'"),
        ("pgd:=20", "expected key=value"),
        ("pgd:a-b=20", "expected key=value"),
        ("pgd:step=1,step=2", "step is given twice"),
        (":step=1", "a name is missing"),
        ("", "a name is missing"),
    ],
)
def test_parse_call_refuses(text, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        parse_call(text)
    assert repr(text) in str(caught.value)


words = st.text(st.characters(exclude_characters=",", exclude_categories=("Cs",)), max_size=12).filter(
    lambda text: text == text.strip() and parse_value(text) == text
)


values = st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), words)


names = st.text("abcxyz019-_.", min_size=1)


@given(names, st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), values, max_size=4))
def test_a_call_survives_being_written_and_read(name, arguments):
    call = Call(name, arguments)
    again = parse_call(str(call))
    assert again == call
    assert str(again) == str(call)
    assert {key: type(value) for key, value in again.arguments.items()} == {k: type(v) for k, v in arguments.items()}
