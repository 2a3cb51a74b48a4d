"""URLs without their secrets: results, messages and names hold no credentials."""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["public", "redacted"]

# User and password before the host. A password may hold a slash, as the keys of stores do; digits are a port.
_USER = re.compile(r"^(?:[^/?#]*@|[^/?#@]*:(?![0-9]{1,5}(?:[/?#]|$))[^@]*@)")
_REST = re.compile(r"[?#].*", re.DOTALL)
# A URL that a library read as a path: its slashes are collapsed to one, and "file:" may be missing.
_COLLAPSED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/(?!/)|(?<!\S)//)(\S*)")
# Shorter parts of a secret would match any message.
_SHORT = 4


def public(url: str) -> str:
    """Return a URL, or a text that ends in one, without user, password, query and fragment; other texts unchanged.

    A query may hold a signature or a token, so it is dropped completely.
    """
    first, *places = url.split("://")
    return "://".join([first, *(_REST.sub("", _USER.sub("", place, count=1)) for place in places)])


def redacted(text: str, url: str = "") -> str:
    """Return a message without the secrets of the URLs in it, and without those of `url` anywhere."""
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"\S*://\S*", lambda match: public(match[0]), text)
    return _COLLAPSED.sub(lambda match: match[1] + _REST.sub("", _USER.sub("", match[2], count=1)), text)


def _secrets(url: str) -> set[str]:
    """Return the parts of a URL that `public` drops, as written and as a library decodes them."""
    found: set[str] = set()
    for place in url.split("://")[1:]:
        user = _USER.match(place)
        rest = _REST.search(place, user.end() if user else 0)
        name, _, password = user[0].removesuffix("@").partition(":") if user else ("", "", "")
        parts = [f"{name}:{password}", password or name]
        if "/" in password:  # a library may read the part before the slash as a host
            parts += [f"{name}:{password.partition('/')[0]}", *re.split("[/:]", password)]
        parts += [rest[0][1:], *(piece.partition("=")[2] for piece in re.split(r"[?#&;]", rest[0]))] if rest else []
        found |= {part for part in parts if len(part) >= _SHORT}
    return found | {unquote(secret) for secret in found}
