"""Commands and groups whose help pages show a flag without a type."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["HelpCommand", "HelpGroup"]


class _Flags:
    """Give flags an empty type: typer shows `<bool>`, which reads as if they took a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters of the command, with those that help pages add."""
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in found:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return found


class HelpCommand(_Flags, TyperCommand):
    """A command."""


class HelpGroup(_Flags, TyperGroup):
    """A group of commands."""
