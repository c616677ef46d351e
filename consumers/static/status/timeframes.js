// The table of timeframes on the status page: when prices and candles were last refreshed, and
// which coins fail. That is out of the service's health or, while it does not answer, out of what
// was last heard through Redis.

import { byId, html, missing, paint, setText } from "../shared/dom.js";
import { formatAge, formatNumber, formatTime, parseTime, splitSymbol } from "../shared/format.js";
import { clock } from "../shared/server.js";

const NAMED_IN_A_GROUP = 3; // of the coins that fail for one reason; the others unfold
const timeframeRows = new Map(); // by name

/** One row for the prices and for each timeframe, from the service or from what Redis heard. */
export function showTimeframes(answer) {
  const health = answer?.service.health;
  const parts = health ? partsOfHealth(health) : partsOfUpdates(answer?.updates ?? {});
  for (const [name, row] of timeframeRows) {
    if (parts.some((part) => part.name === name)) continue;
    row.remove();
    timeframeRows.delete(name);
  }
  for (const part of parts) showPart(part);
  byId("timeframes-note").hidden = !answer || Boolean(health);
}

function partsOfHealth({ prices, timeframes, symbols }) {
  const parts = Object.entries({ prices, ...timeframes });
  return parts.map(([name, { last_success: success, fresh, expected, candles, failing }]) => ({
    name,
    at: parseTime(success),
    fresh: `${fresh} of ${expected ?? symbols}`,
    candles: candles ?? null,
    failing: groupByReason(failing),
  }));
}

function partsOfUpdates(updates) {
  return Object.entries(updates).map(([name, { timestamp, symbols, failed }]) => ({
    name,
    at: timestamp,
    fresh: `${symbols} updated`,
    candles: null,
    failing: failed ? [[`${failed} coins`, []]] : [],
  }));
}

/** {"BTCUSDT": "HTTP 503", …} -> [["HTTP 503", ["BTC", …]], …] */
function groupByReason(failing) {
  const groups = new Map();
  for (const [symbol, reason] of Object.entries(failing)) {
    groups.set(reason, [...(groups.get(reason) ?? []), splitSymbol(symbol)[0]]);
  }
  return [...groups];
}

function showPart({ name, at, fresh, candles, failing }) {
  const [, success, age, freshCell, candlesCell, failingCell] = (
    timeframeRows.get(name) ?? addPart(name)
  ).cells;
  paint(success, at, () => (at ? `${formatTime(at)} UTC` : "never"));
  setText(age, at ? formatAge(clock.now() - at) : "");
  setText(freshCell, fresh);
  paint(candlesCell, candles, () => drawCandleCount(candles, name));
  paint(failingCell, failing, () => (failing.length ? failing.map(drawGroup) : "none"));
}

function addPart(name) {
  const labels = ["Last success", "Age", "Fresh", "Candles", "Failing"];
  const cells = labels.map((label) => {
    const isNumber = ["Age", "Fresh", "Candles"].includes(label);
    return html("td", { "data-label": label, class: isNumber ? "number" : null });
  });
  const row = html("tr", { "data-part": name }, html("th", { scope: "row" }, name), ...cells);
  timeframeRows.set(name, row);
  byId("timeframes").tBodies[0].append(row);
  return row;
}

function drawCandleCount(candles, name) {
  if (candles !== null) return formatNumber(candles);
  return missing(name === "prices" ? "prices have no candles" : "only the service knows");
}

function drawGroup([reason, coins]) {
  const names = coins.join(", ");
  if (!names) return html("div", {}, reason);
  if (coins.length <= NAMED_IN_A_GROUP) return html("div", {}, `${names}: ${reason}`);
  const summary = html("summary", {}, `${coins.length} coins: ${reason}`);
  return html("details", {}, summary, names);
}
