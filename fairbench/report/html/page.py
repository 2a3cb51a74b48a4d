"""Pages that stand alone: everything users name is escaped, and nothing is asked of a network.

A page extends `templates/base.html`, which holds the style sheet and its colours for light and dark, and draws with the
macros of `templates/charts.html`. Class and attack names, captions and messages are texts, never markup.
"""

from __future__ import annotations

import base64
import io
import math
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from fairbench.version import __version__

__all__ = ["fraction", "percent", "picture", "render_page"]


def render_page(template: str, **values: Any) -> str:
    """Fill a template of `fairbench/report/templates` with values, all of which are escaped; returns a whole page.

    Filters: `percent`, `fraction` and `picture`, the functions below.
    """
    return _environment().get_template(template).render(version=__version__, **values)


def percent(share: float) -> str:
    """Write a share as percent with one decimal, `-` where there is none."""
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def fraction(value: float) -> str:
    """Write a budget as people do: `0.3`, `8/255` where it is a multiple of half a grey level, else three digits."""
    levels = round(2 * 255 * value) / 2
    if math.isclose(value, round(value, 2), rel_tol=1e-6) or not math.isclose(levels / 255, value, rel_tol=1e-6):
        return f"{value:.3g}"
    return f"{levels:g}/255"


def picture(image: NDArray[np.uint8]) -> str:
    """Write an image, uint8 [H,W,C] with C 1 or 3, as the address of a PNG that holds it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fairbench.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, fraction=fraction, picture=picture)
    return environment
