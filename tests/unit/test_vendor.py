"""The library that the dashboard ships: unchanged, and with what its licence asks for."""

from __future__ import annotations

import hashlib
import re

from consumers.pages import PAGES, STATIC

VENDOR = STATIC / "vendor"
README = (VENDOR / "README.md").read_text()


def test_the_library_is_the_one_that_the_readme_names() -> None:
    library = (VENDOR / "lightweight-charts.js").read_bytes()
    [version] = re.findall(r"^# lightweight-charts ([0-9.]+)$", README, re.MULTILINE)
    assert f"Lightweight Charts™ v{version}" in library[:200].decode()
    assert hashlib.sha256(library).hexdigest() in README


def test_the_page_with_the_chart_says_what_the_notice_says() -> None:
    page = " ".join((STATIC / PAGES["/"]).read_text().split())
    assert "Apache License" in (VENDOR / "LICENSE").read_text()
    notice, link = (VENDOR / "NOTICE").read_text().split(" https://")
    assert " ".join(notice.split()).replace("Charts ", "Charts™ ") in page
    assert f'href="https://{link.strip()}"' in page
