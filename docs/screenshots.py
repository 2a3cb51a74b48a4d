"""Take the README's pictures of the site: `python docs/screenshots.py BOARD.csv METHOD [ATTACK]`.

The table is that of the attack, without one that of the union.
Needs a Chromium and playwright: `apt-get install chromium`, `pip install playwright`.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from fairbench.evaluation.verdicts import UNION
from fairbench.files import atomic
from fairbench.report.html import site
from fairbench.report.html.boards import file_name

HERE = Path(__file__).parent
COLOURS = 128  # of the palette that the pictures are stored with


def main(board: str, method: str, attack: str = UNION) -> None:
    """Build a site of one board in a temporary folder, and photograph its table and the page of a method."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page = site.build_site([Path(board)], Path(folder))[1]
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        photograph(browser, page, HERE / "site-table.png", dark=False, attack=attack)
        photograph(browser, page.with_suffix("") / f"{file_name(method)}.html", HERE / "site-method.png", dark=True)
        browser.close()


def photograph(browser: Browser, page: Path, picture: Path, *, dark: bool, attack: str | None = None) -> None:
    """Save the top of a page, with the attack chosen in its first list of them, as a PNG of few colours."""
    view = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="dark" if dark else "light")
    view.goto(page.as_uri())
    if attack is not None:
        view.get_by_label("Attack").first.select_option(attack)
    image = Image.open(io.BytesIO(view.screenshot())).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    with atomic(picture) as temporary:
        image.save(temporary, "PNG", optimize=True)
    print(f"{picture}: {picture.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
