"""The documentation site as a reader meets it: it builds without a warning, its notebooks run, and pages fit screens.

`python -m pytest -m slow tests/docs/test_site.py`
"""

from __future__ import annotations

import resource
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("sphinx", reason="the documentation site needs pip install -e '.[docs]'")
pytest.importorskip("myst_nb", reason="the documentation site needs pip install -e '.[docs]'")

from page_faults import CONTRASTS

import fairbench
from fairbench import registry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TUTORIALS = ("add", "compare", "gate", "audit")
LOOKED_AT = (
    "index", "start", "protocol", "objectives", "metrics", "tutorial", "generated/columns", "generated/commands",
    "generated/python", "generated/methods/index", "generated/methods/iad2", "generated/methods/absld_released",
    "generated/boards", "boards/index", "boards/digits-v4", "boards/digits-v4/absld",
    *(f"tutorials/{name}" for name in TUTORIALS),
)  # fmt: skip


class Page(HTMLParser):
    """The addresses that a page names, and the ids in it."""

    def __init__(self, path):
        super().__init__()
        self.addresses, self.ids = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.addresses += [given[name] for name in ("href", "src") if given.get(name)]
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, and the processor seconds of the build with its notebooks."""
    out = tmp_path_factory.mktemp("site")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(ROOT / "docs"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path_factory.mktemp("empty"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-4000:]
    return out, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_notebooks_and_the_site_take_three_minutes_of_one_core(site):
    assert site[1] < 180


@pytest.mark.parametrize("name", TUTORIALS)
def test_every_cell_of_a_notebook_has_printed_something(site, name):
    page = (site[0] / "tutorials" / f"{name}.html").read_text(encoding="utf-8")
    cells = page.split('class="cell docutils container"')[1:]
    silent = [cell for cell in cells if "cell_output" not in cell]
    assert cells
    assert silent == []


def test_the_gate_fails_the_candidate_and_passes_the_baseline(site):
    page = (site[0] / "tutorials" / "gate.html").read_text(encoding="utf-8")
    assert page.count("fairness gate: passed") == 1
    assert page.count("fairness gate: FAILED") == 1
    assert "exit code 1" in page


def test_every_public_name_and_method_can_be_linked_to(site):
    page = (site[0] / "generated" / "python.html").read_text(encoding="utf-8")
    missing = [name for name in fairbench.__all__ if f'id="fairbench.{name}"' not in page]
    assert missing == ["__version__"]
    built = {path.stem for path in (site[0] / "generated" / "methods").glob("*.html")}
    assert built == {*registry.methods.names(), "index"}


def test_every_link_within_the_site_leads_to_a_page_and_to_a_place_on_it(site):
    pages = {path.resolve(): Page(path) for path in site[0].rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for address in page.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages[target].ids | {"", "top"} if target in pages else {""}
            if not target.is_file() or unquote(parts.fragment) not in known:
                broken.append(f"{path.relative_to(site[0].resolve())}: {address}")
    assert len(pages) > 200
    assert broken == []


def test_the_front_page_leads_to_the_boards_and_a_method_to_each_of_its_rows(site):
    assert "generated/boards.html" in Page(site[0] / "index.html").addresses
    listed = Page(site[0] / "generated" / "boards.html").addresses
    assert {f"../boards/{path.name}" for path in (site[0] / "boards").glob("*-v*.html")} <= set(listed)
    rows = {f"../../boards/{path.parent.name}/absld.html" for path in (site[0] / "boards").glob("*/absld.html")}
    assert len(rows) >= 6
    assert rows <= set(Page(site[0] / "generated" / "methods" / "absld.html").addresses)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_pages_fit_the_screen_have_contrast_and_leave_the_console_quiet(site, width, dark):
    browsing = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    from shutil import which

    chromium = which("chromium") or which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with browsing.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        scheme = "dark" if dark else "light"
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        said, fetched = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        for name in LOOKED_AT:
            page.goto((site[0] / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            assert said == [], name
            assert page.evaluate(CONTRASTS) == [], name
        assert [url for url in fetched if not url.startswith(("file:", "data:"))] == []
        browser.close()
