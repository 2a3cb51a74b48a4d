"""The documentation site as a reader meets it: it builds without a warning, its notebooks run, and pages fit screens.

`python -m pytest -m slow tests/docs/test_site.py`
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the documentation site needs pip install -e '.[docs]'")
pytest.importorskip("myst_nb", reason="the documentation site needs pip install -e '.[docs]'")

import fairbench
from fairbench import registry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TUTORIALS = ("add", "compare", "gate", "audit")
LOOKED_AT = (
    "index", "start", "protocol", "objectives", "metrics", "tutorial", "generated/columns", "generated/commands",
    "generated/python", "generated/methods/index", "generated/methods/iad2", "generated/methods/absld_released",
    *(f"tutorials/{name}" for name in TUTORIALS),
)  # fmt: skip


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


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_pages_fit_the_screen_and_the_console_is_quiet(site, width, dark):
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
        assert [url for url in fetched if not url.startswith(("file:", "data:"))] == []
        browser.close()
