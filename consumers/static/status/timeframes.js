// The table of timeframes on the status page: when prices and candles were last refreshed, and
// which coins fail. That is out of the service's health or, while it does not answer, out of what
// was last heard through Redis.

import { byId, html, missing, paint, setText } from "../shared/dom.js";
import {
  formatAge,
  formatMoment,
  formatNumber,
  parseTime,
  splitSymbol,
  timeframeMs,
} from "../shared/format.js";
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
  parts.sort((a, b) => rank(a.name) - rank(b.name));
  for (const part of parts) showPart(part);
  if (isOutOfOrder(parts)) byId("timeframes").tBodies[0].append(...parts.map(rowOf));
  byId("timeframes-note").hidden = !answer || Boolean(health);
}

function partsOfHealth({ prices, timeframes, symbols }) {
  const parts = Object.entries({ prices, ...timeframes });
  return parts.map(([name, part]) => ({
    name,
    at: parseTime(part.last_success),
    fresh: `${part.fresh} of ${part.expected ?? symbols}`,
    candles: part.candles ?? null,
    failing: groupByReason(part.failing, part.failing_since ?? {}),
  }));
}

/** Prices first, then the shortest timeframe. */
function rank(name) {
  return name === "prices" ? 0 : timeframeMs(name);
}

function rowOf({ name }) {
  return timeframeRows.get(name);
}

function isOutOfOrder(parts) {
  return parts.some((part, index) => byId("timeframes").tBodies[0].rows[index] !== rowOf(part));
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

/**
 * {"BTCUSDT": "HTTP 503", …} -> [["HTTP 503", ["BTC", …], 1795489650577], …]; the time is when the
 * first of them began to fail, null if that is not known.
 */
function groupByReason(failing, since) {
  const groups = new Map();
  for (const [symbol, reason] of Object.entries(failing)) {
    const [, coins, began] = groups.get(reason) ?? [reason, [], null];
    const times = [began, parseTime(since[symbol])].filter(Boolean);
    const earliest = times.length ? Math.min(...times) : null;
    groups.set(reason, [reason, [...coins, splitSymbol(symbol)[0]], earliest]);
  }
  return [...groups.values()];
}

function showPart({ name, at, fresh, candles, failing }) {
  const [, success, age, freshCell, candlesCell, failingCell] = (
    timeframeRows.get(name) ?? addPart(name)
  ).cells;
  paint(success, at, () => (at ? formatMoment(at, clock.now()) : "never"));
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

function drawGroup([reason, coins, began]) {
  const names = coins.join(", ");
  if (!names) return html("div", {}, reason);
  const since = began ? `, since ${formatMoment(began, clock.now())}` : "";
  if (coins.length <= NAMED_IN_A_GROUP) return html("div", {}, `${names}: ${reason}${since}`);
  const summary = html("summary", {}, `${coins.length} coins: ${reason}${since}`);
  return html("details", {}, summary, names);
}
