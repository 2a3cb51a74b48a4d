"""Shared parts of all descriptions: frozen models without unknown settings, checked names and numbers, hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from hashlib import sha256
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from fairbench.errors import InvalidInput, UnknownName, explain_validation

__all__ = ["Frozen", "Name", "Real", "Seed", "Share", "digest", "validated"]

RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}

Validated = TypeVar("Validated", bound=BaseModel)


def _fraction(value: Any) -> Any:
    """Accept `8/255` where a number is expected."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ArithmeticError):
            return value
    return value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _not_reserved(name: str) -> str:
    """Refuse names that are devices on some systems, whatever follows the first dot."""
    if name.partition(".")[0].lower() in RESERVED:
        raise ValueError("a name that some systems keep for a device")
    return name


Real = Annotated[float, BeforeValidator(_fraction), BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Seed = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=2**63 - 1)]
Share = Annotated[float, BeforeValidator(_fraction), BeforeValidator(_no_bool), Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+.\-]*$", max_length=100), AfterValidator(_not_reserved)]


class Frozen(BaseModel):
    """A description that cannot change and refuses undeclared settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        numeric = cls.model_fields[str(info.field_name)].annotation in (int, float, int | None, float | None)
        return _no_bool(value) if numeric else value


def digest(value: Any) -> str:
    """First twelve hex digits of the sha256 of a value's canonical JSON."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def validated(kind: type[Validated], tree: Mapping[str, Any], where: str) -> Validated:
    """Validate a tree of plain values; InvalidInput names `where` it is from, the setting and the nearest known one."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            *sections, name = map(str, first["loc"])
            unknown = UnknownName("setting", ".".join([*sections, name]), _known(kind, sections))
            raise InvalidInput(f"{where}: {unknown}") from None
        raise InvalidInput(f"{where}: {explain_validation(error)}") from None


def _known(kind: type[BaseModel], sections: Sequence[str]) -> list[str]:
    """The settings of a section with their paths."""
    for section in sections:
        annotation = kind.model_fields[section].annotation
        parts = [part for part in (annotation, *get_args(annotation)) if isinstance(part, type)]
        kind = next(part for part in parts if issubclass(part, BaseModel))
    return [".".join([*sections, field]) for field in kind.model_fields]
