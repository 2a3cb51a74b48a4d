"""Hyper-parameters: typed, validated fields of a class, each with a default and the source of that default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import get_annotations
from typing import Any, ClassVar, NamedTuple, dataclass_transform, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from fairbench.errors import InvalidInput, UnknownName, explain_validation

__all__ = ["FEW_CLASSES", "HyperParameter", "Tunable", "hyper"]

# Up to this many classes methods use their authors' constants for CIFAR-10, above it those for CIFAR-100.
FEW_CLASSES = 10


class HyperParameter(NamedTuple):
    """A hyper-parameter as listings show it.

    `search` holds the values that tuning tries, none for most; `many_classes` is the default on datasets of more than
    FEW_CLASSES classes, or None if it does not differ.
    """

    name: str
    type: str
    default: Any
    source: str
    search: tuple[Any, ...] = ()
    many_classes: Any = None


def hyper(
    default: Any, *, source: str, search: Sequence[Any] = (), many_classes: Any = None, **constraints: Any
) -> Any:
    """Declare a hyper-parameter: its default, the source of the default, and pydantic constraints (`ge=0`, ...).

    `search` marks a method's main knob and lists the values that tuning tries; the definition of the class raises
    InvalidInput if the default is not among them. `many_classes` is the default above FEW_CLASSES classes, for methods
    whose authors use another value on CIFAR-100.
    """
    extra = {"source": source, "search": list(search), "many_classes": many_classes}
    return Field(default, json_schema_extra=extra, **constraints)


@dataclass_transform(kw_only_default=True, field_specifiers=(hyper,))
class Tunable:
    """A class whose annotated `hyper(...)` attributes are its validated keyword arguments.

    Raises UnknownName for a keyword that is no hyper-parameter, and InvalidInput for a value of the wrong type or
    range, or for bounds `NAME_low` above `NAME_high`, which would clamp all values to one. The definition of a subclass
    raises InvalidInput for a hyper-parameter without a type, a default without a source, or one not in `search`.
    """

    _fields: ClassVar[dict[str, FieldInfo]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._fields = dict(cls._fields)
        for name, value in list(vars(cls).items()):
            if isinstance(value, FieldInfo):
                if name not in get_annotations(cls):
                    raise InvalidInput(f"{cls.__name__}.{name}: a hyper-parameter needs a type, as in `{name}: float`")
                _check_searched(f"{cls.__name__}.{name}", value)
                cls._fields[name] = value
                setattr(cls, name, value.default)
            elif name in cls._fields:
                raise InvalidInput(
                    f"{cls.__name__}.{name}: give an inherited hyper-parameter its new default by hyper()"
                )

    def __init__(self, **values: Any) -> None:
        for name, value in self.validate(values).items():
            setattr(self, name, value)

    @classmethod
    def declares(cls, name: str) -> FieldInfo | None:
        """Return the declaration of hyper-parameter `name`, one object in all classes that inherit it, or None."""
        return cls._fields.get(name)

    @classmethod
    def check(cls, values: Mapping[str, Any], num_classes: int | None = None) -> None:
        """Raise InvalidInput for values that have valid types and do not fit together; a class may replace this.

        It is called before anything is trained. `values` has all hyper-parameters by name. `num_classes` is None where
        the dataset is not known yet.
        """

    @classmethod
    def validate(cls, values: Mapping[str, Any], num_classes: int | None = None) -> dict[str, Any]:
        """Return all hyper-parameters, `values` over the defaults for `num_classes`, checked against their types.

        Without a number of classes the defaults are those for few.
        """
        for name in values:
            if name not in cls._fields:
                raise UnknownName(f"hyper-parameter of {cls.__name__}", name, cls._fields)
        if num_classes is not None and num_classes > FEW_CLASSES:
            others = {name: _extra(info)["many_classes"] for name, info in cls._fields.items()}
            values = {**{name: value for name, value in others.items() if value is not None}, **values}
        hints = get_type_hints(cls, localns={"ClassVar": ClassVar})
        declared: dict[str, Any] = {name: (hints[name], info) for name, info in cls._fields.items()}
        config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)
        schema = create_model(cls.__name__, __config__=config, **declared)
        try:
            checked = schema(**values)
        except ValidationError as error:
            raise InvalidInput(f"{cls.__name__}: {explain_validation(error)}") from None
        for name, value in values.items():
            if isinstance(value, bool) and not isinstance(getattr(checked, name), bool):
                raise InvalidInput(f"{cls.__name__}: {name}: expected {_type_name(hints[name])}, got {value}")
        found = {name: getattr(checked, name) for name in cls._fields}
        try:
            _check_bounds(found)
            cls.check(found, num_classes)
        except InvalidInput as error:
            raise InvalidInput(f"{cls.__name__}: {error}") from None
        return found

    @classmethod
    def hyper_parameters(cls) -> list[HyperParameter]:
        """List every hyper-parameter, in the order of their declaration."""
        hints = get_type_hints(cls, localns={"ClassVar": ClassVar})
        rows = []
        for name, info in cls._fields.items():
            extra = _extra(info)
            row = HyperParameter(
                name, _type_name(hints[name]), info.default, **{**extra, "search": tuple(extra["search"])}
            )
            rows.append(row)
        return rows


def _check_searched(name: str, info: FieldInfo) -> None:
    """Raise InvalidInput if tuning would try other values and never the default."""
    values = list(_extra(info)["search"])
    if values and info.default not in values:
        raise InvalidInput(f"{name}: its default {info.default!r} is not among the values to search, {values!r}")


def _check_bounds(values: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a number NAME_low above NAME_high."""
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    for name, low in numbers.items():
        above = name.removesuffix("_low") + "_high"
        if name.endswith("_low") and above in numbers and low > numbers[above]:
            raise InvalidInput(f"{name} is {low}, above {above}, which is {numbers[above]}")


def _extra(info: FieldInfo) -> dict[str, Any]:
    """The arguments of `hyper` besides the default and its constraints."""
    given = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    return {"source": "", "search": (), "many_classes": None, **given}


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
