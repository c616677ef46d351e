// The scanner page: a table with a row a coin, and the chart of the coin that was chosen.
// Scores and analysis are computed elsewhere; this page shows, sorts and filters them.

import { CandleChart, bandsMeter, scoreBar, sparkline } from "./charts.js";
import {
  Feed,
  ServerError,
  clock,
  describeFailure,
  everySecond,
  fetchJson,
  formatAge,
  formatNumber,
  formatPrice,
  formatSigned,
  formatTime,
  hiddenText,
  html,
  listen,
  missing,
  paint,
  setText,
  showBanner,
  splitSymbol,
  timeframeMs,
} from "./common.js";

const RSI_LOW = 30;
const RSI_HIGH = 70;
const NOT_FOUND = 404; // no fresh data in Redis: the next refresh may bring it
const SAME_AGE_MS = 5_000; // prices this near to each other are said to be of one age

const table = document.getElementById("scanner-table");
const tableBody = table.tBodies[0];
const feed = new Feed("/api/scanner", showAnswer);
let latest = { timeframes: [], updates: {}, coins: [] }; // what is shown

// ---- the answer ---------------------------------------------------------------------------------

/** The answer of /api/scanner as this page uses it. */
function readAnswer({ redis, timeframes, updates, symbols }) {
  return { redis, timeframes, updates, coins: symbols.map(readCoin) };
}

/**
 * What the columns show of a coin. The answer holds the values of its keys in Redis as they are,
 * null where a key is gone. What is not there, or is no number, is null here; `reasons` says why,
 * by column.
 */
function readCoin({ symbol, price, scan, ta }) {
  const analyses = Object.entries(ta).map(([timeframe, value]) => [timeframe, readAnalysis(value)]);
  const noPrice = { price: "no fresh price in Redis", change24h: "no fresh price in Redis" };
  return {
    symbol,
    price: number(price?.price),
    change24h: number(price?.change24h),
    pricedAt: number(price?.timestamp),
    rsi: number(scan?.rsi),
    vwap: number(scan?.vwap),
    vwapDistance: number(scan?.vwap_distance_pct),
    bandsPlace: number(scan?.bands?.place),
    score: number(scan?.score),
    scoredAt: number(scan?.timestamp),
    closes: scan?.closes?.every(Number.isFinite) ? scan.closes : [],
    ta: Object.fromEntries(analyses),
    reasons: { ...(price ? {} : noPrice), ...scan?.reasons },
  };
}

function readAnalysis(value) {
  if (!value) return null;
  const { ribbon, squeeze, stoch_rsi: stochRsi, reasons } = value;
  return {
    ribbon: ribbon?.state ?? null,
    squeeze: squeeze && (squeeze.on ? "on" : "off"),
    momentum: number(squeeze?.momentum),
    k: number(stochRsi?.k),
    d: number(stochRsi?.d),
    zone: stochRsi?.zone ?? null,
    reasons: reasons ?? {},
  };
}

function number(value) {
  return Number.isFinite(value) ? value : null;
}

/** The same coins without any value: the newest answer is too old to be shown. */
function blanked({ timeframes, coins }) {
  const reasons = { all: "the dashboard does not answer" };
  const blank = ({ symbol }) => ({ symbol, closes: [], ta: {}, reasons });
  return { timeframes, updates: {}, coins: coins.map(blank) };
}

// ---- columns ------------------------------------------------------------------------------------
//
// A column has `value`, which sorts (what is missing goes last); `content`, all that the cell
// shows, if that is more than the value; and `draw`, which makes nodes of it when it has changed.

const COIN_COLUMN = {
  id: "symbol",
  label: "Coin",
  value: (coin) => coin.symbol,
  draw: drawCoin,
};

const VALUE_COLUMNS = [
  {
    id: "price",
    label: "Price",
    value: (coin) => coin.price,
    content: (coin) => together(coin.price, coin.pricedAt),
    draw: ([price, timestamp]) =>
      html("span", { title: `At ${formatTime(timestamp)} UTC` }, formatPrice(price)),
  },
  {
    id: "change24h",
    label: "24 h",
    unit: "%",
    value: (coin) => coin.change24h,
    draw: (change) => html("span", { class: tone(change) }, formatSigned(change, 2)),
  },
  {
    id: "rsi",
    label: "RSI",
    value: (coin) => coin.rsi,
    draw: drawRsi,
  },
  {
    id: "vwap",
    label: "VWAP",
    unit: "%",
    value: (coin) => coin.vwapDistance,
    content: (coin) => together(coin.vwapDistance, coin.vwap),
    draw: ([distance, vwap]) =>
      html("span", { title: `VWAP ${formatPrice(vwap)}` }, formatSigned(distance, 2)),
  },
  {
    id: "bands",
    label: "Bands",
    value: (coin) => coin.bandsPlace,
    draw: (place) => [bandsMeter(place), html("span", { class: "beside" }, formatNumber(place, 2))],
  },
  {
    id: "score",
    label: "Score",
    value: (coin) => coin.score,
    draw: drawScore,
  },
  {
    id: "spark",
    label: "48 h",
    value: (coin) => changeOverall(coin.closes),
    content: (coin) => (coin.closes.length > 1 ? coin.closes : null),
    draw: drawSpark,
  },
];

/** The column of a timeframe; sorts by ribbon and then by Stoch RSI K. */
function taColumn(timeframe) {
  return {
    id: `ta-${timeframe}`,
    label: timeframe,
    value: (coin) => taRank(coin.ta[timeframe]),
    content: (coin) => coin.ta[timeframe],
    draw: (ta) => drawTa(timeframe, ta),
  };
}

function together(value, more) {
  return value == null ? null : [value, more];
}

function drawCoin(symbol) {
  const [base, quote] = splitSymbol(symbol);
  const attributes = { type: "button", class: "coin", "aria-controls": "chart-panel" };
  return html("button", attributes, base, html("small", {}, quote));
}

function drawRsi(rsi) {
  const word = rsi < RSI_LOW ? "oversold" : rsi > RSI_HIGH ? "overbought" : "";
  const text = formatNumber(rsi, 1);
  return word ? [html("b", { title: word }, text), hiddenText(` ${word}`)] : text;
}

function drawScore(score) {
  const word = score > 0 ? "towards oversold" : score < 0 ? "towards overbought" : "neutral";
  const attributes = { class: `beside ${tone(score)}`, title: word };
  const number = html("span", attributes, formatSigned(score, 0));
  return [scoreBar(score), number, hiddenText(` ${word}`)];
}

function drawSpark(closes) {
  const change = `${formatSigned(changeOverall(closes), 2)} % over ${closes.length} hourly closes`;
  return [html("span", { title: change }, sparkline(closes)), hiddenText(change)];
}

const RIBBONS = { up: "▲", down: "▼", mixed: "–" };
const SQUEEZES = { on: "●", off: "○" };
const UNKNOWN = "·";

function drawTa(timeframe, ta) {
  const words = describeTa(timeframe, ta);
  const k = ta.k === null ? UNKNOWN : formatNumber(ta.k);
  const signs = [
    html("span", { class: ta.ribbon }, RIBBONS[ta.ribbon] ?? UNKNOWN),
    html("span", { class: `squeeze-${ta.squeeze}` }, SQUEEZES[ta.squeeze] ?? UNKNOWN),
    html("span", {}, html("span", { class: `zone-${ta.zone}` }, k)),
  ];
  const glance = html("span", { class: "ta", title: words, "aria-hidden": "true" }, ...signs);
  return [glance, hiddenText(words)];
}

/** All that is known of a timeframe in words, what is not with its reason. */
function describeTa(timeframe, { ribbon, squeeze, momentum, k, d, zone, reasons }) {
  const parts = [
    ribbon && `EMA ribbon ${ribbon}`,
    squeeze && `squeeze ${squeeze}`,
    momentum !== null && `momentum ${momentum.toPrecision(3)}`,
    k !== null && `Stoch RSI K ${formatNumber(k, 1)}`,
    d !== null && `D ${formatNumber(d, 1)}`,
    zone && `zone ${zone}`,
    ...Object.entries(reasons).map(([what, reason]) => `${what.replaceAll("_", " ")} ${reason}`),
  ];
  return `${timeframe}: ${parts.filter(Boolean).join(", ")}`;
}

/** A number that orders by ribbon, then by K, which is from 0 to 100. */
function taRank(ta) {
  if (!ta?.ribbon) return null;
  return { down: -1, mixed: 0, up: 1 }[ta.ribbon] * 1000 + (ta.k ?? 0);
}

/** From the first to the last close, in percent; null if there are not two. */
function changeOverall(closes) {
  return closes.length > 1 ? (closes.at(-1) / closes[0] - 1) * 100 : null;
}

function tone(value) {
  return value > 0 ? "up" : value < 0 ? "down" : "flat";
}

// ---- table --------------------------------------------------------------------------------------

const rows = new Map(); // by symbol
const sort = { column: "score", isDescending: true };
let columns = [];
let filter = "";

/** Brings header and rows up to date; rows stay the same elements, so focus and scrolling stay. */
function showTable() {
  showColumns([COIN_COLUMN, ...VALUE_COLUMNS, ...latest.timeframes.map(taColumn)]);
  for (const coin of latest.coins) showCoin(coin);
  dropRows();
  showOrder();
  showFilter();
  showChosen();
}

/** Takes away the rows of coins that are no longer listed. */
function dropRows() {
  const listed = new Set(latest.coins.map((coin) => coin.symbol));
  for (const [symbol, row] of rows) {
    if (listed.has(symbol)) continue;
    row.remove();
    rows.delete(symbol);
  }
}

function showColumns(newColumns) {
  const ids = (list) => list.map((column) => column.id).join();
  if (ids(newColumns) === ids(columns)) return;
  columns = newColumns;
  table.tHead.replaceChildren(html("tr", {}, ...columns.map(drawHeader)));
  tableBody.replaceChildren();
  rows.clear();
  showSortMarks();
}

function drawHeader({ id, label, unit }) {
  const button = html("button", { type: "button" }, label);
  if (unit) button.append(" ", html("small", {}, unit));
  button.addEventListener("click", () => sortBy(id));
  return html("th", { scope: "col", "data-column": id }, button);
}

function showCoin(coin) {
  const row = rows.get(coin.symbol) ?? addRow(coin.symbol);
  for (const [index, column] of columns.entries()) {
    const content = (column.content ?? column.value)(coin) ?? null;
    const reason = content === null ? reasonFor(coin, column) : null;
    paint(row.cells[index], [content, reason], () =>
      content === null ? missing(reason) : column.draw(content),
    );
  }
}

function addRow(symbol) {
  const cells = columns.map((column) => {
    const label = [column.label, column.unit].filter(Boolean).join(" ");
    const role = column === COIN_COLUMN ? "rowheader" : null;
    return html("td", { role, "data-column": column.id, "data-label": label });
  });
  const row = html("tr", { "data-symbol": symbol }, ...cells);
  rows.set(symbol, row);
  tableBody.append(row);
  return row;
}

function reasonFor(coin, column) {
  return coin.reasons[column.id] ?? coin.reasons.all ?? "no fresh data in Redis";
}

/** The first click on a column puts the highest on top, or A for names; the next one turns it. */
function sortBy(id) {
  const isDescending = id === sort.column ? !sort.isDescending : id !== COIN_COLUMN.id;
  Object.assign(sort, { column: id, isDescending });
  showSortMarks();
  showOrder();
}

function showSortMarks() {
  for (const header of table.tHead.rows[0].cells) {
    const isSorted = header.dataset.column === sort.column;
    if (!isSorted) header.removeAttribute("aria-sort");
    else header.setAttribute("aria-sort", sort.isDescending ? "descending" : "ascending");
  }
}

function showOrder() {
  const { value } = columns.find((column) => column.id === sort.column) ?? COIN_COLUMN;
  const ordered = latest.coins.toSorted(
    (a, b) => compare(value(a), value(b)) || a.symbol.localeCompare(b.symbol),
  );
  arrange(ordered.map((coin) => rows.get(coin.symbol)));
}

/** Negative if `a` comes first. Missing values come last in both directions. */
function compare(a, b) {
  if ((a ?? null) === (b ?? null)) return 0;
  if (a == null || b == null) return a == null ? 1 : -1;
  return a < b !== sort.isDescending ? -1 : 1;
}

/** Puts rows in order without moving the one that has the focus: a moved element would lose it. */
function arrange(ordered) {
  let next = null;
  for (const row of ordered.toReversed()) {
    const isInPlace = row.nextElementSibling === next;
    if (!isInPlace && !row.contains(document.activeElement)) tableBody.insertBefore(row, next);
    next = row;
  }
}

function showFilter() {
  const wanted = filter.trim().toUpperCase();
  let shown = 0;
  for (const [symbol, row] of rows) {
    row.hidden = !symbol.includes(wanted);
    shown += row.hidden ? 0 : 1;
  }
  const count = wanted ? `${shown} of ${rows.size}` : `${rows.size} coins`;
  setText(document.getElementById("coin-count"), rows.size ? count : "");
  showEmpty(wanted, shown);
}

function showEmpty(wanted, shown) {
  const empty = document.getElementById("empty");
  empty.hidden = shown > 0;
  if (rows.size) setText(empty, `No coin has “${wanted}” in its name.`);
  else setText(empty, feed.body ? "No coins in Redis yet. Is the service running?" : "");
}

// ---- ages and the banner ------------------------------------------------------------------------

function showAges() {
  const problem = findProblem();
  showBanner(problem);
  table.classList.toggle("stale", problem !== null);
  panel.classList.toggle("stale", feed.failure !== null); // candles have an end of their own
  setText(document.getElementById("data-age"), feed.body ? describeAges() : "");
}

function describeAges() {
  const pricedAt = timesOf("pricedAt");
  const scoredAt = timesOf("scoredAt");
  const isPartial = pricedAt.length < latest.coins.length;
  const partly = isPartial ? ` (${pricedAt.length} of ${latest.coins.length})` : "";
  const prices = pricedAt.length
    ? `Prices ${describeAgeRange(pricedAt)} old${partly}`
    : "No fresh prices";
  const scores = scoredAt.length ? `scores ${describeAgeRange(scoredAt)} old` : "no fresh scores";
  return `${prices} · ${scores}`;
}

/** When what the coins show of a kind was made, ms UTC; without those that have none. */
function timesOf(key) {
  return latest.coins.map((coin) => coin[key]).filter(Boolean);
}

function describeAgeRange(times) {
  const newest = Math.max(...times);
  const oldest = Math.min(...times);
  const age = formatAge(clock.now() - newest);
  if (newest - oldest < SAME_AGE_MS) return age;
  return `${age} to ${formatAge(clock.now() - oldest)}`;
}

/** The worst of what makes the table stale, for the banner; null if nothing does. */
function findProblem() {
  if (feed.failure) return describeLoss();
  if (!feed.body) return null;
  const { up, error } = latest.redis;
  if (!up) return { text: "Redis does not answer.", detail: `${error}. ${lastRefresh()}` };
  if (!timesOf("pricedAt").length) {
    return { text: "No fresh prices.", detail: `${lastRefresh()} Is the service running?` };
  }
  if (!timesOf("scoredAt").length) {
    const start = "Is the scanner running? It starts with: python -m consumers.scanner";
    return { text: "No fresh scores.", detail: start };
  }
  return null;
}

function describeLoss() {
  const { text, detail } = describeFailure(feed.failure);
  const rest = feed.body ? "What is shown is from before." : "There is nothing to show.";
  return { text, detail: `${detail} ${rest}` };
}

function lastRefresh() {
  const times = Object.values(latest.updates).map((update) => update.timestamp);
  if (!times.length) return "No refresh was heard of yet.";
  return `The last refresh was ${formatAge(clock.now() - Math.max(...times))} ago.`;
}

// ---- chart of the chosen coin -------------------------------------------------------------------

const panel = document.getElementById("chart-panel");
const timeframeButtons = document.getElementById("chart-timeframes");
const chart = new CandleChart(
  document.getElementById("chart-area"),
  document.getElementById("chart-readout"),
);

const chosen = { symbol: null, timeframe: null };
let series = null; // the last answer of /api/candles for what is chosen
let seriesUpdate = null; // the refresh that it came after, ms UTC
let seriesError = null; // why there is none, or no newer one
let loading = new AbortController();

function openChart(symbol) {
  chosen.symbol = symbol;
  panel.hidden = false;
  setText(document.getElementById("chart-title"), splitSymbol(symbol).join(" / "));
  showChosen();
  chooseTimeframe(chosen.timeframe ?? middleTimeframe());
  panel.focus({ preventScroll: true });
}

function closeChart() {
  const hadFocus = panel.contains(document.activeElement);
  const row = rows.get(chosen.symbol);
  loading.abort();
  chosen.symbol = null;
  series = null;
  panel.hidden = true;
  showChosen();
  if (hadFocus) row?.querySelector("button").focus();
}

function showChosen() {
  for (const [symbol, row] of rows) {
    const isChosen = symbol === chosen.symbol;
    row.classList.toggle("chosen", isChosen);
    row.querySelector("button").setAttribute("aria-expanded", isChosen);
  }
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

/** Reads the candles again if they were refreshed since, or if the last try got no answer. */
function refreshSeries() {
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
    series = await fetchJson(`/api/candles?${new URLSearchParams(chosen)}`, loading.signal);
    seriesError = null;
  } catch (error) {
    if (error.name === "AbortError") return; // another series is wanted by now
    if (!(error instanceof ServerError)) throw error;
    seriesError = error;
  }
  showSeries();
}

/** Draws the candles, or says why there are none. What has expired in Redis is not shown. */
function showSeries() {
  if (series && clock.now() >= series.expires_at) series = null;
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

// ---- all of it ----------------------------------------------------------------------------------

function showAnswer() {
  latest = feed.body ? readAnswer(feed.body) : blanked(latest);
  showTable();
  showAges();
  refreshSeries();
}

function tick() {
  if (!feed.body && latest.coins.length) {
    latest = blanked(latest);
    showTable();
  }
  if (series && clock.now() >= series.expires_at) showSeries();
  showAges();
}

tableBody.addEventListener("click", (event) => {
  const { symbol } = event.target.closest("tr").dataset;
  if (symbol === chosen.symbol) closeChart();
  else openChart(symbol);
});

document.getElementById("filter").addEventListener("input", (event) => {
  filter = event.target.value;
  showFilter();
});

document.getElementById("chart-close").addEventListener("click", closeChart);

document.addEventListener("keydown", (event) => {
  const isTyping = event.target instanceof HTMLInputElement; // there Escape empties the box
  if (event.key === "Escape" && chosen.symbol && !isTyping) closeChart();
});

feed.start();
everySecond(tick);
listen(
  {
    update: () => feed.askSoon(),
    redis: () => feed.askSoon(),
  },
  () => feed.askSoon(),
);
