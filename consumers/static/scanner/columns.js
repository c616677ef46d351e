// The columns of the scanner's table: what a coin is sorted by in each, and what its cell shows.
// Knows nothing of rows, of sorting or of the server.
//
// A column has `value`, which sorts (what is missing goes last); `content`, all that the cell
// shows, if that is more than the value; and `draw`, which makes nodes of it when it has changed.

import { hiddenText, html } from "../shared/dom.js";
import {
  formatNumber,
  formatPrice,
  formatSigned,
  formatTime,
  splitSymbol,
} from "../shared/format.js";
import { bandsMeter, scoreBar, sparkline } from "../shared/drawings.js";

const RSI_LOW = 30;
const RSI_HIGH = 70;

export const COIN_COLUMN = {
  id: "symbol",
  label: "Coin",
  value: (coin) => coin.symbol,
  draw: drawCoin,
};

export const VALUE_COLUMNS = [
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
export function taColumn(timeframe) {
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
