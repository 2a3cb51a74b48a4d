"""Arguments of attacks and networks, checked against the types that their functions state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairbench.errors import InvalidInput, explain_validation

__all__ = ["typed"]


def typed(text: str, arguments: Mapping[str, Any], parameters: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Convert arguments to the types of the parameters, and add the defaults of those not given.

    `parameters` has the type and the default of each by name, where `...` means that it must be given. `text` is what
    messages begin with. Raises InvalidInput for a value of another type, and for one that is missing.
    """
    from pydantic import ConfigDict, ValidationError, create_model

    schema: Any = create_model("Arguments", __config__=ConfigDict(arbitrary_types_allowed=True), **dict(parameters))  # type: ignore[call-overload]
    try:
        checked = schema(**arguments)
    except ValidationError as error:
        raise InvalidInput(f"{text}: {explain_validation(error)}") from None
    found = {key: getattr(checked, key) for key in parameters}
    for key, given in arguments.items():
        # `parse_call` has read every number; pydantic would read more texts as one, "0__1" and "0-1" among them.
        if isinstance(given, str) and isinstance(found[key], int | float) and not isinstance(found[key], bool):
            raise InvalidInput(f"{text}: {key}: should be a number, got {given!r:.80}")
    return found
