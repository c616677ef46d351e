// The panel with the chart of the coin that was chosen: opens and closes, switches timeframes, and
// reads the candles again when they were refreshed. How candles are drawn is in candle-chart.js.

import { CandleChart } from "./candle-chart.js";
import { byId, html, paint, setText } from "../shared/dom.js";
import { splitSymbol, timeframeMs } from "../shared/format.js";
import { ServerError, clock, fetchJson } from "../shared/server.js";
import { focusCoin, markChosen } from "../scanner/table.js";

const NOT_FOUND = 404; // no fresh data in Redis: the next refresh may bring it

const panel = byId("chart-panel");
const timeframeButtons = byId("chart-timeframes");
const chart = new CandleChart(byId("chart-area"), byId("chart-readout"));

const chosen = { symbol: null, timeframe: null };
let latest = null; // what the table shows, as coins.js makes it
let series = null; // the last answer of /api/chart for what is chosen
let seriesUpdate = null; // the refresh that it came after, ms UTC
let seriesError = null; // why there is none, or no newer one
let loading = new AbortController();

/** Opens the chart of a coin, or closes it if it is open. */
export function toggleChart(symbol) {
  if (symbol === chosen.symbol) closeChart();
  else openChart(symbol);
}

function openChart(symbol) {
  chosen.symbol = symbol;
  panel.hidden = false;
  setText(byId("chart-title"), splitSymbol(symbol).join(" / "));
  markChosen(symbol);
  chooseTimeframe(chosen.timeframe ?? middleTimeframe());
  panel.focus({ preventScroll: true });
}

function closeChart() {
  const hadFocus = panel.contains(document.activeElement);
  const { symbol } = chosen;
  loading.abort();
  chosen.symbol = null;
  series = null;
  panel.hidden = true;
  markChosen(null);
  if (hadFocus) focusCoin(symbol);
}

function middleTimeframe() {
  return latest.timeframes[Math.floor((latest.timeframes.length - 1) / 2)];
}

function chooseTimeframe(timeframe) {
  chosen.timeframe = timeframe;
  showTimeframes();
  series = null;
  seriesError = null;
  chart.clear("Reading candles …");
  loadSeries();
}

function showTimeframes() {
  paint(timeframeButtons, latest.timeframes, () => latest.timeframes.map(drawTimeframe));
  for (const button of timeframeButtons.children) {
    button.setAttribute("aria-pressed", button.textContent === chosen.timeframe);
  }
}

function drawTimeframe(timeframe) {
  const button = html("button", { type: "button" }, timeframe);
  button.addEventListener("click", () => chooseTimeframe(timeframe));
  return button;
}

/**
 * Takes a new answer, as coins.js makes it; its price goes into the chart. Reads the candles again
 * if they were refreshed since, or if the last try got no answer.
 */
export function refreshChart(answer) {
  latest = answer;
  if (!chosen.symbol) return;
  showTimeframes();
  const isOld = seriesUpdate !== latest.updates[chosen.timeframe]?.timestamp;
  const isWorthAnother = seriesError ? seriesError.status !== NOT_FOUND : !series;
  if (isOld || isWorthAnother) loadSeries();
  else showSeries();
}

async function loadSeries() {
  loading.abort();
  loading = new AbortController();
  seriesUpdate = latest.updates[chosen.timeframe]?.timestamp;
  try {
    series = await fetchJson(`/api/chart?${new URLSearchParams(chosen)}`, loading.signal);
    seriesError = null;
  } catch (error) {
    if (error.name === "AbortError") return; // another series is wanted by now
    if (!(error instanceof ServerError)) throw error;
    seriesError = error;
  }
  showSeries();
}

/** Takes candles away once they have expired in Redis. */
export function expireChart() {
  if (hasExpired()) showSeries();
}

/** Candles have an end of their own; they are dimmed only when no newer ones could be heard of. */
export function dimChart(isStale) {
  panel.classList.toggle("stale", isStale);
}

function hasExpired() {
  return series !== null && clock.now() >= series.expires_at;
}

/** Draws the candles, or says why there are none. What has expired in Redis is not shown. */
function showSeries() {
  if (hasExpired()) series = null;
  if (!series) {
    chart.clear(seriesError?.message ?? "No fresh candles in Redis");
    return;
  }
  const { symbol, timeframe, candles } = series;
  const last = candles.at(-1);
  const lengthMs = timeframeMs(timeframe);
  chart.show({
    label: `Candles of ${symbol}, ${timeframe}`,
    candles,
    lengthMs,
    price: latest.coins.find((coin) => coin.symbol === symbol)?.price ?? last.close,
    formingSince: last.timestamp + lengthMs > clock.now() ? last.timestamp : null,
  });
}

byId("chart-close").addEventListener("click", closeChart);

document.addEventListener("keydown", (event) => {
  const isTyping = event.target instanceof HTMLInputElement; // there Escape empties the box
  if (event.key === "Escape" && chosen.symbol && !isTyping) closeChart();
});
