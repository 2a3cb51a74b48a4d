"""Groups of commands whose help pages show a flag without a type, and that say how a name is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandFunctionType

__all__ = ["PlainTyper"]


class _Flags:
    """Give flags an empty type: typer shows `<bool>`, which reads as if they took a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters of the command, with those that help pages add."""
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in found:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return found


class _Command(_Flags, TyperCommand):
    pass


class _Group(_Flags, TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command; a word that is none may be a name, which `show` takes."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            said = getattr(error, "message", "")
            if "show" in self.commands and len(args) == 1 and said and "Did you mean" not in said:
                error.message = f"{said} To show one of that name: {ctx.command_path} show {args[0]}"  # type: ignore[attr-defined]
            raise


class PlainTyper(typer.Typer):
    """A group of commands, with help pages that show a flag without a type."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=_Group, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Register a command, as `typer.Typer.command` does."""
        return super().command(name, cls=_Command, **settings)
