// The panel with the chart of the coin that was chosen: opens and closes, switches timeframes, and
// reads the chart's data again when they were refreshed. The chart itself, in view.js, and the
// library are loaded when a coin is opened for the first time.

import { byId, html, paint, setText } from "../shared/dom.js";
import { splitSymbol, timeframeMs } from "../shared/format.js";
import { ServerError, clock, fetchJson } from "../shared/server.js";

const NOT_FOUND = 404; // no fresh data in Redis: the next refresh may bring it

const panel = byId("chart-panel");
const area = byId("chart-area");
const timeframeButtons = byId("chart-timeframes");
let modules = null; // those that are loaded at first use
let view = null; // the ChartView, once they are

const chosen = { symbol: null, timeframe: null };
const listeners = [];
let latest = null; // what the page shows, as coins.js makes it
let series = null; // the last answer of /api/chart for what is chosen
let trades = [];
let seriesUpdate = null; // the refresh that it came after, ms UTC
let seriesError = null; // why there is none, or no newer one
let loading = new AbortController();
let isLoading = false;

/**
 * Calls `listener({symbol, timeframe, hadFocus})` when another coin or timeframe is shown.
 * `symbol` is null once the chart is closed; `hadFocus` is whether the focus was in it.
 */
export function onChartChange(listener) {
  listeners.push(listener);
}

/** Opens the chart of a coin, or closes it if it is open. */
export function toggleChart(symbol) {
  if (symbol === chosen.symbol) closeChart();
  else openChart(symbol);
}

/**
 * Opens the chart of a coin, even before it is known which there are. Without a timeframe it keeps
 * the last one, at first the middle one.
 */
export function openChart(symbol, timeframe = chosen.timeframe ?? middleTimeframe()) {
  Object.assign(chosen, { symbol, timeframe });
  panel.hidden = false;
  setText(byId("chart-title"), splitSymbol(symbol).filter(Boolean).join(" / "));
  showChosen();
  panel.focus({ preventScroll: true });
}

export function closeChart() {
  const hadFocus = panel.contains(document.activeElement);
  loading.abort();
  isLoading = false;
  chosen.symbol = null;
  series = null;
  view?.clear("");
  panel.hidden = true;
  tell(hadFocus);
}

function tell(hadFocus) {
  for (const listener of listeners) listener({ ...chosen, hadFocus });
}

function middleTimeframe() {
  return latest?.timeframes[Math.floor((latest.timeframes.length - 1) / 2)] ?? null;
}

/** Shows what is chosen from now on. Without a timeframe that waits for the first answer. */
function showChosen() {
  series = null;
  seriesError = null;
  trades = [];
  showTimeframes();
  showMessage("Reading candles …");
  tell(false);
  if (chosen.timeframe) loadSeries();
}

function showTimeframes() {
  const timeframes = latest?.timeframes ?? [];
  paint(timeframeButtons, timeframes, () => timeframes.map(drawTimeframe));
  for (const button of timeframeButtons.children) {
    button.setAttribute("aria-pressed", button.textContent === chosen.timeframe);
  }
}

function drawTimeframe(timeframe) {
  const button = html("button", { type: "button" }, timeframe);
  button.addEventListener("click", () => {
    chosen.timeframe = timeframe;
    showChosen();
  });
  return button;
}

/**
 * Takes a new answer, as coins.js makes it; its price goes into the chart. Reads the chart's data
 * again if they were refreshed since, or if the last try got no answer.
 */
export function refreshChart(answer) {
  latest = answer;
  if (!chosen.symbol) return;
  showTimeframes();
  if (!chosen.timeframe) {
    chosen.timeframe = middleTimeframe();
    if (chosen.timeframe) showChosen();
    return;
  }
  if (isLoading) return; // the next answer sees whether what comes is old already
  const isOld = seriesUpdate !== lastUpdate();
  const isWorthAnother = seriesError ? seriesError.status !== NOT_FOUND : !series;
  if (isOld || isWorthAnother) loadSeries();
  else showSeries();
}

function lastUpdate() {
  return latest?.updates[chosen.timeframe]?.timestamp;
}

async function loadSeries() {
  loading.abort();
  if (latest?.coins.length && !latest.coins.some(({ symbol }) => symbol === chosen.symbol)) {
    isLoading = false;
    series = null;
    seriesError = new ServerError(0, `${chosen.symbol} is not one of the service's coins`);
    showSeries();
    return;
  }
  loading = new AbortController();
  const { signal } = loading;
  seriesUpdate = lastUpdate();
  isLoading = true;
  try {
    await loadModules();
    const query = new URLSearchParams(chosen);
    [series, trades] = await Promise.all([
      fetchJson(`/api/chart?${query}`, signal),
      modules.fetchTrades(chosen, signal),
    ]);
    seriesError = null;
  } catch (error) {
    if (signal.aborted) return; // another series is wanted by now
    isLoading = false;
    if (!(error instanceof ServerError)) throw error;
    seriesError = error;
  }
  if (signal.aborted) return;
  isLoading = false;
  showSeries();
}

/** @throws {ServerError} if the dashboard does not answer */
async function loadModules() {
  try {
    const [{ ChartView }, { Choices }, { INDICATORS }, markers] = await Promise.all([
      import("./view.js"),
      import("./choices.js"),
      import("./indicators.js"),
      import("./markers.js"),
    ]);
    if (modules) return;
    modules = markers;
    const layers = [...INDICATORS, ...markers.LAYERS];
    const choices = new Choices(layers, () => view.rebuild());
    view = new ChartView(area, byId("chart-readout"), choices);
  } catch (error) {
    throw new ServerError(0, `The chart cannot be loaded: ${error.message}`);
  }
}

/** Takes candles away once they have expired in Redis. */
export function expireChart() {
  if (hasExpired()) showSeries();
}

/** Candles have an end of their own; they are dimmed only when no newer ones could be heard of. */
export function dimChart(isStale) {
  if (panel.classList.contains("stale") === isStale) return;
  panel.classList.toggle("stale", isStale);
  view?.rebuild();
}

function hasExpired() {
  return series !== null && clock.now() >= series.expires_at;
}

/** Draws the chart, or says why there is none. What has expired in Redis is not shown. */
function showSeries() {
  if (hasExpired()) series = null;
  if (!series) {
    showMessage(seriesError?.message ?? "No fresh candles in Redis");
    return;
  }
  view.show(withLivePrice(series));
}

function showMessage(message) {
  if (view) view.clear(message);
  else area.replaceChildren(html("p", { class: "empty" }, message));
}

/** The series as view.js takes it. The price moves the forming candle. */
function withLivePrice({ candles, ...rest }) {
  const last = candles.at(-1);
  const lengthMs = timeframeMs(rest.timeframe);
  const isForming = last.timestamp + lengthMs > clock.now();
  const coin = latest?.coins.find(({ symbol }) => symbol === rest.symbol);
  const price = coin?.price ?? last.close;
  const { high, low } = last;
  const moved = { ...last, close: price, high: Math.max(high, price), low: Math.min(low, price) };
  return {
    ...rest,
    candles: isForming ? [...candles.slice(0, -1), moved] : candles,
    lengthMs,
    price,
    formingSince: isForming ? last.timestamp : null,
    trades,
  };
}

byId("chart-close").addEventListener("click", closeChart);
byId("chart-all").addEventListener("click", () => view?.showAll());
byId("chart-newest").addEventListener("click", () => view?.showNewest());

document.addEventListener("keydown", (event) => {
  const isTyping = event.target instanceof HTMLInputElement; // there Escape empties the box
  if (event.key === "Escape" && chosen.symbol && !isTyping) closeChart();
});
