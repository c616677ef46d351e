"""python -m demo.screenshots: a picture of each page of the demo, light and dark, for README.md.

Starts a demo of its own, waits until there is something to see, and ends it. Needs the packages of
tests/browser and a Chromium.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs/screenshots"
SIZE = {"width": 1280, "height": 800}
PAGES = {
    "scanner": "/",
    "chart": "/?coin=BTCUSDT&tf=1h",
    "trades": "/trades",
    "status": "/status",
}
CLOSED_TRADES = 4  # so that there is a curve
WAIT_S = 900.0  # for signals, which come when they come
COLOURS = 128  # a PNG of a palette is a third of the size, and looks the same
MOST_BYTES = 150_000


@contextmanager
def demo() -> Iterator[str]:
    """The address of the dashboard of a demo that runs meanwhile."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "demo"], cwd=ROOT, text=True, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout
        for line in process.stdout:
            if found := re.search(r"open (http://\S+)/ ", line):
                yield found[1]
                break
        else:
            sys.exit("the demo does not start; try: make demo")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def wait_for_trades(url: str) -> None:
    """Until enough were closed, or WAIT_S are over: the pages are worth a picture then, too."""
    give_up_at = time.monotonic() + WAIT_S
    while time.monotonic() < give_up_at:
        time.sleep(2)
        try:
            with urllib.request.urlopen(f"{url}/api/trades?limit={CLOSED_TRADES}") as answer:
                if len(json.load(answer)["trades"]) >= CLOSED_TRADES:
                    return
        except OSError:
            continue  # it is just starting


def shoot(browser: Browser, url: str, name: str, path: str, scheme: str) -> None:
    page: Page = browser.new_page(viewport=SIZE, color_scheme=scheme)
    page.goto(f"{url}{path}")
    page.wait_for_load_state()
    page.locator("main :is(tbody tr, .card)").first.wait_for()
    if "coin=" in path:
        page.locator("#chart-area canvas").first.wait_for()
    page.wait_for_timeout(1500)  # fonts, lines that fade in
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled")))
    file = FOLDER / f"{name}-{scheme}.png"
    picture.convert("RGB").quantize(COLOURS).save(file, optimize=True)
    page.close()
    size = file.stat().st_size
    print(f"{file.relative_to(ROOT)}: {size / 1000:.0f} kB")
    if size > MOST_BYTES:
        sys.exit(f"{file.name} is larger than {MOST_BYTES / 1000:.0f} kB")


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("there is no Chromium: apt-get install chromium")
    FOLDER.mkdir(exist_ok=True)
    with demo() as url, sync_playwright() as playwright:
        wait_for_trades(url)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, path in PAGES.items():
            for scheme in ("light", "dark"):
                shoot(browser, url, name, path, scheme)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
