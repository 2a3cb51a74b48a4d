"""Print how long a browser takes over a board's page: `python docs/simulations/page_load.py 84 1000`.

The numbers are methods; each has one seed, and a row a checkpoint and attack, twelve in all. Needs a Chromium and
playwright: `apt-get install chromium`, `pip install playwright`. Times are of the machine's clock, with the processor
seconds of the page's main thread beside them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import scale
from playwright.sync_api import Browser, sync_playwright

from fairbench.leaderboard import builder
from fairbench.report.html import site
from fairbench.run.benchmark import prepare_plan

CLICK = """async () => {
  const start = performance.now();
  document.querySelector('button[aria-describedby="means-average"]').click();
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - start;
}"""
LOAD = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def main() -> None:
    """Print a line of the table for every number of methods given."""
    print("| methods | rows | page | load event | processor | sorted after a click |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for methods in map(int, sys.argv[1:] or ["84", "1000"]):
            with tempfile.TemporaryDirectory() as folder:
                page = make(methods, Path(folder))
                print(f"| {methods:,} | {opened(browser, page)} |", flush=True)
        browser.close()


def make(methods: int, root: Path) -> Path:
    """Write the site of a board of so many methods, and return the board's page."""
    *_, spec = prepare_plan(scale.SUITE, methods=["sat"], seeds=[0])
    named = (spec.method.model_copy(update={"name": f"method-{number}"}) for number in range(methods))
    scale.make_up([spec.model_copy(update={"method": method}) for method in named], root)
    (board,) = builder.build_boards(root / "results", root / "leaderboards", scale.SUITE)
    shutil.rmtree(root / "results")  # curves and flows are on the pages of methods
    return site.build_site([board], root / "site")[1]


def opened(browser: Browser, page: Path) -> str:
    """Open a page in a fresh context, and return the cells of its line."""
    context = browser.new_context()
    view = context.new_page()
    session = context.new_cdp_session(view)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    view.goto(page.as_uri())
    measured = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    rows = view.locator("#board tbody tr").count()
    load, click = view.evaluate(LOAD), view.evaluate(CLICK)
    context.close()
    size = page.stat().st_size / 1e6
    return f"{rows:,} | {size:.1f} MB | {load / 1000:.2f} s | {measured['TaskDuration']:.2f} s | {click / 1000:.2f} s"


if __name__ == "__main__":
    main()
