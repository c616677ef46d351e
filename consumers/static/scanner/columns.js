// The columns of the scanner's table: what a coin is sorted by in each, and what its cell shows.
// Knows nothing of rows, of sorting or of the server.
//
// A column has `value`, which sorts (what is missing goes last); `content`, all that the cell
// shows, if that is more than the value; and `draw`, which makes nodes of it when it has changed.
// `from` is the width of window, in px, from which it is shown unless the user chose otherwise;
// `name` is its label where that alone would not tell it from another one; `fields` are its raw
// values for a file, by name, if that is not the value alone; `reason` says why a value is missing,
// if it is not that of the column's id.

import { hiddenText, html } from "../shared/dom.js";
import {
  formatCompact,
  formatDayTime,
  formatNumber,
  formatPrice,
  formatSigned,
  formatTime,
  splitSignal,
  splitSymbol,
  zoneName,
} from "../shared/format.js";
import { bandsMeter, scoreBar, sparkline } from "../shared/drawings.js";

const SCORED = "1h candles, the forming one included";
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
      html(
        "span",
        { title: timestamp && `At ${formatTime(timestamp)} ${zoneName(timestamp)}` },
        formatPrice(price),
      ),
    fields: (coin) => ({ price: coin.price, price_time: isoTime(coin.pricedAt) }),
  },
  {
    id: "change24h",
    label: "24 h",
    unit: "%",
    name: "Change in 24 h",
    value: (coin) => coin.change24h,
    draw: (change) => html("span", { class: tone(change) }, formatSigned(change, 2)),
  },
  {
    id: "volume",
    label: "Volume",
    unit: "USDT",
    name: "Volume of 24 h",
    from: 1100,
    value: valueTraded,
    content: (coin) => together(valueTraded(coin), [coin.volume, coin.symbol]),
    draw: drawVolume,
    fields: (coin) => ({ volume_24h: coin.volume }),
  },
  {
    id: "rsi",
    label: "RSI",
    hint: `RSI of the ${SCORED}`,
    value: (coin) => coin.rsi,
    draw: drawRsi,
  },
  {
    id: "vwap",
    label: "VWAP",
    unit: "%",
    value: (coin) => coin.vwapDistance,
    content: (coin) => together(coin.vwapDistance, coin.vwap),
    name: "Distance to VWAP",
    hint: `Distance to the VWAP of the ${SCORED}`,
    draw: ([distance, vwap]) =>
      html("span", { title: `VWAP ${formatPrice(vwap)}` }, formatSigned(distance, 2)),
    fields: (coin) => ({ vwap_distance_pct: coin.vwapDistance }),
  },
  priceColumn("vwap-price", "VWAP at", 1300, (coin) => coin.vwap, "vwap"),
  {
    id: "bands",
    label: "Bands",
    name: "Place in the bands",
    hint: `Place between the Bollinger Bands of the ${SCORED}: 0 lower, 1 upper`,
    from: 900,
    value: (coin) => coin.bandsPlace,
    draw: (place) => [bandsMeter(place), html("span", { class: "beside" }, formatNumber(place, 2))],
  },
  priceColumn("band-lower", "Lower band", 1800, (coin) => coin.bandLower, "bands"),
  priceColumn("band-middle", "Middle band", 1800, (coin) => coin.bandMiddle, "bands"),
  priceColumn("band-upper", "Upper band", 1800, (coin) => coin.bandUpper, "bands"),
  {
    id: "score",
    label: "Score",
    hint: `From 100, oversold, to −100, overbought, by RSI, VWAP and bands of the ${SCORED}; no advice`,
    value: (coin) => coin.score,
    draw: drawScore,
    fields: (coin) => ({ score: coin.score, score_time: isoTime(coin.scoredAt) }),
  },
  {
    id: "spark",
    label: "48 h",
    name: "Closes of 48 h",
    from: 1040,
    value: (coin) => changeOverall(coin.closes),
    content: (coin) => (coin.closes.length > 1 ? coin.closes : null),
    draw: drawSpark,
    fields: (coin) => ({ change_48h_pct: changeOverall(coin.closes) }),
  },
  {
    id: "signal",
    label: "Signal",
    name: "Newest signal",
    hint: "The newest signal of any timeframe, and when it came",
    from: 1600,
    value: (coin) => coin.signal?.timestamp,
    content: (coin) => coin.signal,
    draw: drawSignal,
    fields: ({ signal }) => ({
      signal: signal?.signal,
      signal_timeframe: signal?.timeframe,
      signal_price: signal?.price,
      signal_time: isoTime(signal?.timestamp),
    }),
  },
];

/** The columns of a timeframe. The first one sorts by ribbon and then by Stoch RSI K. */
export function taColumns(timeframe) {
  const ta = (coin) => coin.ta[timeframe];
  return [
    {
      id: `ta-${timeframe}`,
      label: timeframe,
      name: `Analysis of ${timeframe}`,
      hint: `EMA ribbon, squeeze and Stoch RSI K of ${timeframe}, after the last closed candle`,
      isAnalysis: true,
      value: (coin) => taRank(ta(coin)),
      content: ta,
      draw: (value) => drawTa(timeframe, value),
      fields: (coin) => ({
        [`ribbon_${timeframe}`]: ta(coin)?.ribbon,
        [`squeeze_${timeframe}`]: ta(coin)?.squeeze,
        [`stoch_rsi_k_${timeframe}`]: ta(coin)?.k,
      }),
    },
    {
      id: `ta-${timeframe}-d`,
      label: "D",
      name: `Stoch RSI D of ${timeframe}`,
      isAnalysis: true,
      from: 2000,
      value: (coin) => ta(coin)?.d,
      reason: (coin) => ta(coin)?.reasons.stoch_rsi,
      draw: (d) => formatNumber(d),
      fields: (coin) => ({ [`stoch_rsi_d_${timeframe}`]: ta(coin)?.d }),
    },
    {
      id: `ta-${timeframe}-momentum`,
      label: "Mom.",
      unit: "%",
      name: `Momentum of ${timeframe}`,
      isAnalysis: true,
      from: 2200,
      value: (coin) => percent(ta(coin)?.momentum, coin.price),
      reason: (coin) => ta(coin)?.reasons.squeeze,
      draw: (momentum) => html("span", { class: tone(momentum) }, formatSigned(momentum, 2)),
      fields: (coin) => ({ [`momentum_${timeframe}`]: ta(coin)?.momentum }),
    },
  ];
}

/** A column of prices that belong to an indicator of the scanner. */
function priceColumn(id, label, from, value, indicator) {
  const field = id.replaceAll("-", "_");
  const fields = (coin) => ({ [field]: value(coin) });
  const name = id === "vwap-price" ? "VWAP" : label;
  const reason = (coin) => coin.reasons[indicator];
  return { id, label, name, from, value, reason, draw: formatPrice, fields };
}

function percent(value, whole) {
  return value == null || !whole ? null : (value / whole) * 100;
}

function isoTime(ms) {
  return ms ? new Date(ms).toISOString() : null;
}

function together(value, more) {
  return value == null ? null : [value, more];
}

function drawCoin(symbol) {
  const [base, quote] = splitSymbol(symbol);
  const attributes = { type: "button", class: "coin", "aria-controls": "chart-panel" };
  const star = { type: "button", class: "star", "aria-label": `Favourite ${base}` };
  return [html("button", star), html("button", attributes, base, html("small", {}, quote))];
}

/** The volume of 24 h at the last price, so that coins can be compared. */
function valueTraded({ volume, price }) {
  return volume == null || price == null ? null : volume * price;
}

function drawVolume([value, [volume, symbol]]) {
  const title = `${formatCompact(volume)} ${splitSymbol(symbol)[0]} in 24 h, at the last price`;
  return html("span", { title }, formatCompact(value));
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

function drawSignal({ signal, timeframe, price, timestamp }) {
  const [what, way] = splitSignal(signal);
  const title = `At ${formatPrice(price)}, ${formatDayTime(timestamp)} ${zoneName(timestamp)}`;
  return html(
    "span",
    { title },
    html("span", { class: way, "aria-hidden": "true" }, RIBBONS[way]),
    ` ${what} `,
    hiddenText(`${way} `),
    `${timeframe} `,
    html("small", {}, formatDayTime(timestamp)),
  );
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
