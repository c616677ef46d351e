"""What a user sees on the two pages, read out of the browser for tests. Asserts nothing."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

from playwright.sync_api import Locator, Page

MINUS, DASH = "\u2212", "\u2013"  # the sign of a number; a missing number
Candle = dict[str, float]

# --- numbers ---


def to_number(text: str) -> float:
    """The first number of a text: "+1,234.50 % over 48 closes" -> 1234.5."""
    found = re.search(r"[+-]?[0-9][0-9,]*(\.[0-9]+)?", text.replace(MINUS, "-"))
    assert found, text
    return float(found[0].replace(",", ""))


def is_price(text: str, value: float) -> bool:
    """Whether a text shows a price; pages show five or more significant digits."""
    return math.isclose(to_number(text), value, rel_tol=6e-5)


# --- the scanner's table ---

_COLUMN = """column => Object.fromEntries(
  [...document.querySelectorAll("#scanner-table tbody tr:not([hidden])")].map(row => {
    const cell = row.querySelector(`td[data-column="${column}"]`);
    return [row.dataset.symbol, cell.querySelector(".missing") ? null : cell.textContent];
  }))"""

_REASON = """([symbol, column]) => document.querySelector(
  `#scanner-table tr[data-symbol="${symbol}"] td[data-column="${column}"] .missing`)?.title"""


def column_texts(page: Page, column: str) -> dict[str, str | None]:
    """The texts of a column by symbol, from top to bottom; None for a missing value."""
    return page.evaluate(_COLUMN, column)  # type: ignore[no-any-return]


def column_numbers(page: Page, column: str) -> dict[str, float | None]:
    texts = column_texts(page, column)
    return {symbol: text and to_number(text) for symbol, text in texts.items()}  # type: ignore[misc]


def reason(page: Page, symbol: str, column: str) -> str | None:
    """The page's reason for a missing value; None if the value is there."""
    return page.evaluate(_REASON, [symbol, column])  # type: ignore[no-any-return]


def cell(page: Page, symbol: str, column: str) -> Locator:
    return page.locator(f'#scanner-table tr[data-symbol="{symbol}"] td[data-column="{column}"]')


def coin(page: Page, symbol: str) -> Locator:
    """The button that opens the chart of a coin."""
    return cell(page, symbol, "symbol").locator("button.coin")


def star(page: Page, symbol: str) -> Locator:
    """The button that makes a coin a favourite."""
    return cell(page, symbol, "symbol").locator("button.star")


def header(page: Page, column: str) -> Locator:
    return page.locator(f'#scanner-table th[data-column="{column}"]')


# --- the chart ---

_CHART = """() => {
  const host = document.querySelector("#chart-area .chart-host");
  const readings = [...document.querySelectorAll("#chart-readout abbr")].map(
    name => [name.textContent, name.nextSibling.nextSibling.textContent]);
  const legend = [...document.querySelectorAll("#chart-area .pane-legend li[data-id]")].map(
    item => [item.dataset.id, item.textContent]);
  return {
    label: host?.getAttribute("aria-label") ?? "",
    view: host?.getAttribute("aria-description") ?? "",
    time: document.querySelector("#chart-readout .time")?.textContent ?? "",
    readings: Object.fromEntries(readings),
    legend: Object.fromEntries(legend),
    events: [...document.querySelectorAll("#chart-area .pane-legend .event")].map(
      event => event.textContent),
  };
}"""


def chart(page: Page) -> dict[str, Any]:
    """The chart's label, what is in view, the candle it reads out, and the legends of its panes."""
    return page.evaluate(_CHART)  # type: ignore[no-any-return]


def in_view(shown: dict[str, Any]) -> tuple[int, int]:
    """How many candles of a chart are in view, and how many it has."""
    found = re.match(r"([0-9]+) of ([0-9]+) candles in view", shown["view"])
    return (int(found[1]), int(found[2])) if found else (0, 0)


def moment(candle: Candle) -> str:
    """The open time of a candle as the chart says it."""
    opened = datetime.fromtimestamp(candle["timestamp"] / 1000, UTC)
    return f"{opened.day} {opened:%b %H:%M} UTC"


def reads_out(shown: dict[str, Any], candle: Candle, moves: bool = False) -> bool:
    """Whether a chart reads out a candle: its time, open, high, low and close. Of one that `moves`
    with the price only what stays."""
    time, readings = str(shown["time"]), shown["readings"]
    names = {"O": "open"} if moves else {"O": "open", "H": "high", "L": "low", "C": "close"}
    return time.startswith(moment(candle)) and all(
        is_price(readings[letter], candle[name]) for letter, name in names.items()
    )


_PAINTED = """([pane, name]) => {
  const probe = document.createElement("span");
  document.querySelector("#chart-area").append(probe);
  probe.style.color = `var(--${name})`;
  const wanted = getComputedStyle(probe).color.match(/[0-9]+/g).slice(0, 3).map(Number);
  probe.remove();
  const rows = [...document.querySelectorAll("#chart-area tr")].filter(
    row => row.querySelector("td:nth-child(2) canvas"));
  const canvas = rows[pane]?.querySelector("td:nth-child(2) canvas");
  if (!canvas) return [0, null];
  // A copy: reading back the page's own canvas makes Chromium warn.
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext(
    "2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  let count = 0, sum = 0;
  for (let at = 0; at < data.length; at += 4) {
    if (wanted.every((part, index) => Math.abs(data[at + index] - part) <= 16)) {
      count += 1;
      sum += Math.floor(at / 4 / canvas.width);
    }
  }
  return [count, sum / count];
}"""


def painted(page: Page, colour: str, pane: int = 0) -> int:
    """How many pixels of a pane of the chart have a colour of the style sheet."""
    return page.evaluate(_PAINTED, [pane, colour])[0]  # type: ignore[no-any-return]


def painted_at(page: Page, colour: str, pane: int = 0) -> float:
    """How far down these pixels are, on average."""
    return page.evaluate(_PAINTED, [pane, colour])[1]  # type: ignore[no-any-return]


# --- the message log ---

_LOG = """() => [...document.querySelectorAll("#log-table tbody tr")].map(row =>
  Object.fromEntries([...row.cells].map(cell => [cell.dataset.column, cell.textContent])))"""


def choose_type(page: Page, *types: str) -> None:
    """Choose these types of entries alone; "" is all."""
    for type_ in ("", *types):
        page.locator(f'#log-types [data-type="{type_}"]').click()


def log_rows(page: Page) -> list[dict[str, str]]:
    """The rows of the message log, from top to bottom."""
    return page.evaluate(_LOG)  # type: ignore[no-any-return]


# --- any page ---

_STEPS = """([selector, pattern, steps]) => new Promise(resolve => {
  let last = null;
  let inRow = 0;
  const timer = setInterval(() => {
    const found = document.querySelector(selector).textContent.match(pattern);
    const seconds = found && Number(found[1]);
    if (seconds === last) return;
    inRow = last !== null && seconds === last + 1 ? inRow + 1 : 0;
    last = seconds;
    if (inRow >= steps) { clearInterval(timer); clearTimeout(giveUp); resolve(true); }
  }, 50);
  const giveUp = setTimeout(() => { clearInterval(timer); resolve(false); }, 20000);
})"""


def ticks(page: Page, selector: str, pattern: str, steps: int) -> bool:
    """Whether the seconds in a text go up one by one, `steps` times in a row."""
    return page.evaluate(_STEPS, [selector, pattern, steps])  # type: ignore[no-any-return]


_TABBABLE = """() => {
  const selector = "a[href], button, input, select, summary, [tabindex='0']";
  return [...document.querySelectorAll(selector)].filter(e => e.getClientRects().length);
}"""

_TAB_STOP = """() => {
  const at = document.activeElement;
  const outline = getComputedStyle(at).outlineStyle;
  return [window.stops.indexOf(at), outline !== "none", at.outerHTML.slice(0, 120)];
}"""


def tab_stops(page: Page) -> tuple[list[str], list[str]]:
    """The elements that Tab does not reach, and those it reaches without a visible focus."""
    count = page.evaluate(f"() => (window.stops = ({_TABBABLE})()).length")
    reached, unseen = set(), []
    for _ in range(count + 5):
        page.keyboard.press("Tab")
        index, is_seen, what = page.evaluate(_TAB_STOP)
        reached.add(index)
        if index >= 0 and not is_seen:
            unseen.append(what)
    missed = sorted(set(range(count)) - reached)
    names = page.evaluate("missed => missed.map(i => window.stops[i].outerHTML)", missed)
    return names, unseen


def nameless(page: Page) -> list[str]:
    """The roles of focusable elements that have no name in the accessibility tree."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    focusable = [
        node
        for node in nodes
        if any(p["name"] == "focusable" and p["value"]["value"] for p in node.get("properties", []))
    ]
    assert len(focusable) > 5
    return [
        node["role"]["value"]
        for node in focusable
        if node["role"]["value"] != "RootWebArea" and not node["name"]["value"].strip()
    ]


_FAINT = """() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const [r, g, b] = numbers(colour).map(value => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour.startsWith("rgb(")) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const isShown = element.getClientRects().length && !element.closest(".visually-hidden, svg");
    if (!isShown || !walker.currentNode.data.trim()) continue;
    const [low, high] = [light(getComputedStyle(element).color), light(ground(element))].sort(
      (a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) faint.add(`${element.outerHTML.slice(0, 80)}: ${contrast.toFixed(2)}`);
  }
  return [...faint];
}"""


def faint_texts(page: Page) -> list[str]:
    """The texts whose contrast with their background is below 4.5 to 1."""
    return page.evaluate(_FAINT)  # type: ignore[no-any-return]
