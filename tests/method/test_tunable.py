from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairbench import hyper as public_hyper
from fairbench.errors import InvalidInput, UnknownName
from fairbench.method.tunable import HyperParameter, Tunable, hyper


class Base(Tunable):
    rate: float = hyper(0.1, source="paper, eq. 3", ge=0, lt=1)
    steps: int = hyper(10, source="code", ge=1)
    plain = "no hyper-parameter"


class Rule(Base):
    steps: int = hyper(5, source="this paper", ge=1)
    mode: Literal["fast", "slow"] = hyper("fast", source="own")
    shares: tuple[float, ...] = hyper((0.5, 0.75), source="own")
    shared: bool = hyper(False, source="own")
    limit: float | None = hyper(None, source="own")


def test_hyper_is_the_public_function():
    assert public_hyper is hyper


def test_defaults_stand_on_the_class_and_the_instance():
    assert (Base.rate, Base.steps, Rule.rate, Rule.steps) == (0.1, 10, 0.1, 5)
    assert vars(Rule()) == {
        "rate": 0.1,
        "steps": 5,
        "mode": "fast",
        "shares": (0.5, 0.75),
        "shared": False,
        "limit": None,
    }


def test_values_are_converted_to_their_types_and_leave_the_class_alone():
    rule = Rule(rate=0, steps="7", shares=[0.25, 1], shared="false", limit=2)
    assert (rule.rate, rule.steps, rule.shares, rule.shared, rule.limit) == (0.0, 7, (0.25, 1.0), False, 2.0)
    assert [type(value) for value in (rule.rate, rule.steps, rule.shares[1], rule.limit)] == [float, int, float, float]
    assert (Rule.rate, Rule.steps, Rule().steps) == (0.1, 5, 5)


def test_the_listing_has_types_defaults_and_sources_in_order():
    assert Rule.hyper_parameters() == [
        HyperParameter("rate", "float", 0.1, "paper, eq. 3"),
        HyperParameter("steps", "int", 5, "this paper"),
        HyperParameter("mode", "Literal['fast', 'slow']", "fast", "own"),
        HyperParameter("shares", "tuple[float, ...]", (0.5, 0.75), "own"),
        HyperParameter("shared", "bool", False, "own"),
        HyperParameter("limit", "float | None", None, "own"),
    ]
    assert [row.name for row in Base.hyper_parameters()] == ["rate", "steps"]


@pytest.mark.parametrize("name", ["rat", "plain", "validate", "_fields", "__class__"])
def test_only_hyper_parameters_can_be_set(name):
    with pytest.raises(UnknownName, match=f"^unknown hyper-parameter of Rule {name!r}; "):
        Rule(**{name: 1})


def test_a_wrong_name_suggests_the_nearest():
    with pytest.raises(UnknownName, match=r"'step'; did you mean 'steps'\?$"):
        Rule(step=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": -0.1}, r"Rule: rate: input should be greater than or equal to 0, got -0\.1"),
        ({"rate": 1}, "Rule: rate: input should be less than 1, got 1"),
        ({"rate": "high"}, "Rule: rate: input should be a valid number.*, got 'high'"),
        ({"rate": float("nan")}, "Rule: rate: .*, got nan"),
        ({"limit": float("inf")}, "Rule: limit.*: input should be a finite number, got inf"),
        ({"rate": False}, "Rule: rate: expected float, got False"),
        ({"limit": True}, r"Rule: limit: expected float \| None, got True"),
        ({"steps": True}, "Rule: steps: expected int, got True"),
        ({"steps": 1.5}, r"Rule: steps: input should be a valid integer.*, got 1\.5"),
        ({"mode": "medium"}, "Rule: mode: input should be 'fast' or 'slow', got 'medium'"),
        ({"shares": 0.5}, r"Rule: shares: input should be a valid tuple, got 0\.5"),
        ({"shares": [0.5, "x"]}, r"Rule: shares\.1: input should be a valid number.*, got 'x'"),
        ({"shared": "maybe"}, "Rule: shared: input should be a valid boolean.*, got 'maybe'"),
    ],
)
def test_wrong_values_are_one_line_that_names_them(values, message):
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        Rule(**values)


def test_a_long_value_is_cut():
    with pytest.raises(InvalidInput) as caught:
        Rule(rate="x" * 10_000)
    assert len(str(caught.value)) < 250


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 10**9))
def test_every_value_in_range_is_kept_exactly(rate, steps):
    rule = Base(rate=rate, steps=steps)
    assert (rule.rate, rule.steps) == (rate, steps)
    assert Base.validate({"rate": rate, "steps": steps}) == {"rate": rate, "steps": steps}


def test_a_knob_lists_what_tuning_tries_and_other_parameters_nothing():
    class Knob(Base):
        scale: float = hyper(0.1, source="own", search=[0.1, 1.0])

    assert {row.name: row.search for row in Knob.hyper_parameters()} == {"rate": (), "steps": (), "scale": (0.1, 1.0)}


def test_a_default_that_tuning_would_never_try_is_refused():
    message = r"^Wide\.scale: its default 2\.0 is not among the values to search, \[1\.0, 3\.0\]$"
    with pytest.raises(InvalidInput, match=message):

        class Wide(Base):
            scale: float = hyper(2.0, source="own", search=[1.0, 3.0])


def test_a_default_may_be_another_above_ten_classes():
    class Grown(Base):
        rate: float = hyper(0.1, source="code", many_classes=0.01, ge=0)

    assert [Grown.validate({}, classes)["rate"] for classes in (2, 10, 11, 200)] == [0.1, 0.1, 0.01, 0.01]
    assert Grown.validate({"rate": 0.5}, 100)["rate"] == 0.5
    assert Grown.validate({}, 100)["steps"] == 10
    assert [row.many_classes for row in Grown.hyper_parameters()] == [0.01, None]


def test_a_class_says_which_declarations_it_shares_with_another():
    class Other(Base):
        pass

    assert Rule.declares("rate") is Other.declares("rate") is Base.declares("rate")
    assert Rule.declares("steps") is not Base.declares("steps")
    assert Rule.declares("plain") is None


def test_a_default_that_breaks_its_own_constraint_is_found():
    class Careless(Tunable):
        rate: float = hyper(-1.0, source="typo", ge=0)

    with pytest.raises(InvalidInput, match=r"Careless: rate: .*, got -1\.0"):
        Careless()


def test_a_hyper_parameter_needs_a_type():
    with pytest.raises(InvalidInput, match=r"^Untyped\.rate: a hyper-parameter needs a type, as in `rate: float`$"):

        class Untyped(Tunable):
            rate = hyper(0.1, source="paper")


def test_a_bare_value_does_not_silently_lose_against_the_inherited_default():
    with pytest.raises(InvalidInput, match=r"^Sharper\.rate: give an inherited hyper-parameter its new default by"):

        class Sharper(Base):
            rate = 0.5


def test_defaults_that_are_mutable_are_not_shared():
    class Listing(Tunable):
        names: list[str] = hyper(["a"], source="own")

    first, second = Listing(), Listing()
    first.names.append("b")
    assert second.names == ["a"]
    assert Listing.names == ["a"]


class Clipped(Tunable):
    weight_low: float = hyper(0.5, source="own", gt=0)
    weight_high: float = hyper(2.0, source="own", gt=0)
    pass_low: float = hyper(9.0, source="own")


def test_bounds_that_are_no_numbers_are_not_compared():
    class Open(Tunable):
        clip_low: float | None = hyper(None, source="own")
        clip_high: float | None = hyper(None, source="own")
        layer_low: str = hyper("b", source="own")
        layer_high: str = hyper("a", source="own")

    assert Open().clip_low is None
    assert Open(clip_low=3.0).clip_low == 3.0


def test_bounds_that_would_clamp_all_values_to_one_are_refused():
    assert Clipped(weight_low=2.0).weight_low == Clipped().weight_high == 2.0
    with pytest.raises(InvalidInput, match=r"^Clipped: weight_low is 3.0, above weight_high, which is 2.0$"):
        Clipped(weight_low=3.0)
    with pytest.raises(InvalidInput, match=r"weight_low is 0.5, above weight_high, which is 0.25"):
        Clipped(weight_high=0.25)


def test_values_that_do_not_fit_together_are_refused_with_the_name_of_their_class():
    class Shares(Base):
        first: float = hyper(0.5, source="own")
        second: float = hyper(0.5, source="own")

        @classmethod
        def check(cls, values, num_classes=None):
            if values["first"] + values["second"] > (num_classes or 1):
                raise InvalidInput("first and second exceed the number of classes")

    assert Shares.validate({"first": 2.0}, 3)["first"] == 2.0
    for refused in (lambda: Shares(first=2.0), lambda: Shares.validate({"first": 2.0}, 2)):
        with pytest.raises(InvalidInput, match=r"^Shares: first and second exceed the number of classes$"):
            refused()
