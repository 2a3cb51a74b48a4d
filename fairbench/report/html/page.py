"""Pages in one file: every value is escaped, also its control characters, and nothing is loaded from a network.

A page extends `templates/base.html`, which holds the style sheet with its light and dark colours, and draws with the
macros of `templates/charts.html`. Names of classes and attacks, captions and messages are text, never markup.
"""

from __future__ import annotations

import base64
import io
import math
import re
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from fairbench.errors import UNPRINTABLE
from fairbench.version import __version__

__all__ = ["Values", "fraction", "percent", "picture", "render_page", "unbroken"]

Values = dict[str, Any]  # the values of a template

# A space inside a figure: "5 %", "3 points", "1 ± 2", "CI 1 to 2", "[1, 2]".
_INSIDE = re.compile(
    r"(?<=\d) (?=[%±]|points?\b|to \d)|(?<=\d to) (?=\d)|(?<=\d %) (?=CI)|(?<=CI) (?=\d)|(?<=\d ±) (?=\d)"
    r"|(?<=\d,) (?=[\d.]+\])"
)


def render_page(template: str, **values: Any) -> str:
    """Fill a template of `fairbench/report/html/templates` with values, all of which are escaped; return the page.

    Filters are the functions `percent`, `fraction`, `picture` and `unbroken` below, and `bare`, which removes " %".
    """
    return _environment().get_template(template).render(version=__version__, **values)


def percent(share: float) -> str:
    """Write a share as percent with one decimal; NaN becomes `-`."""
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def fraction(value: float) -> str:
    """Write an eps as papers do: `0.3`, `8/255` for a multiple of half a grey level, otherwise three digits."""
    levels = round(2 * 255 * value) / 2
    if math.isclose(value, round(value, 2), rel_tol=1e-6) or not math.isclose(levels / 255, value, rel_tol=1e-6):
        return f"{value:.3g}"
    return f"{levels:g}/255"


def unbroken(text: str) -> str:
    """Join numbers with their units, deviations and intervals by no-break spaces, so that no line ends within one."""
    return _INSIDE.sub("\u00a0", text)


def picture(image: NDArray[np.uint8]) -> str:
    """Write an image, uint8 [H,W,C] with 1 or 3 channels, as a data URL of a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _visible(value: Any) -> Any:
    """Escape control characters and marks that reverse the direction of text; other values are unchanged."""
    return value.translate(UNPRINTABLE) if isinstance(value, str) else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fairbench.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, fraction=fraction, picture=picture, unbroken=unbroken)
    environment.filters["bare"] = lambda text: text.removesuffix(" %")
    return environment
