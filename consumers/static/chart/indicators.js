// The indicators of the chart: what each adds to it, and what its legend says of a candle.
// Knows nothing of buttons, preferences or the server.

import { HistogramSeries, LineSeries, LineStyle } from "../vendor/lightweight-charts.js";
import { DAY_MS, formatCompact, formatNumber, formatPrice } from "../shared/format.js";
import { fade } from "./colours.js";
import { LinesOverCandles, SqueezeStates } from "./drawings.js";

const RIBBON_ALPHAS = [1, 0.85, 0.7, 0.55, 0.4]; // the faster, the stronger
const STOCH_RSI_LOW = 20; // as the TA service has its zones
const STOCH_RSI_HIGH = 80;
const QUIET = { lastValueVisible: false, priceLineVisible: false }; // no labels on the axis

/**
 * In the order of the buttons. Those with `add` draw into the pane of the candles, those with
 * `addPane` into one of their own, whose number they are handed; both return a function that shows
 * the points of view.js. `describe(point, series)` returns the parts of the legend: text, with the
 * class of its colour.
 */
export const INDICATORS = [
  { id: "ribbon", label: "EMA ribbon", add: addRibbon, describe: describeRibbon },
  { id: "vwap", label: "VWAP", add: addVwap, describe: describeVwap },
  { id: "bands", label: "Bollinger Bands", add: addBands, describe: describeBands },
  { id: "volume", label: "Volume", addPane: addVolume, describe: describeVolume },
  { id: "squeeze", label: "Squeeze", addPane: addSqueeze, describe: describeSqueeze },
  { id: "stoch_rsi", label: "Stoch RSI", addPane: addStochRsi, describe: describeStochRsi },
];

// --- over the candles ---

function addRibbon(chart, colours) {
  const looks = RIBBON_ALPHAS.map((alpha) => ({ colour: fade(colours.accent, alpha), width: 1.25 }));
  return addLines(chart, new LinesOverCandles(looks), ({ ribbon }) => Object.values(ribbon));
}

function addVwap(chart, colours) {
  const looks = [{ colour: colours.warn, width: 1.75 }];
  const isNewDay = (time) => (time * 1000) % DAY_MS === 0;
  return addLines(chart, new LinesOverCandles(looks), ({ vwap }) => [vwap.vwap], isNewDay);
}

function addBands(chart, colours) {
  const edge = { colour: fade(colours.muted, 0.7), width: 1 };
  const looks = [edge, { ...edge, dash: [3, 3] }, edge];
  const drawing = new LinesOverCandles(looks, fade(colours.muted, 0.08));
  return addLines(chart, drawing, ({ bands }) => [bands.lower, bands.middle, bands.upper]);
}

function addLines(chart, drawing, valuesOf, isFirst = () => false) {
  const series = chart.addCustomSeries(drawing, QUIET);
  return (points, { priceFormat }) => {
    series.applyOptions({ priceFormat }); // the axis has the format of the lowest series
    series.setData(
      points.map(({ time, candle, lines }) =>
        candle
          ? { time, close: candle.close, values: valuesOf(lines), isFirst: isFirst(time) }
          : { time },
      ),
    );
  };
}

// --- in panes of their own ---

function addVolume(chart, colours, pane) {
  const priceFormat = { type: "custom", formatter: formatCompact, minMove: 1e-8 };
  const series = chart.addSeries(HistogramSeries, { ...QUIET, priceFormat }, pane);
  const colourOf = ({ open, close }) => fade(close < open ? colours.down : colours.up, 0.55);
  return (points) =>
    series.setData(
      points.map(({ time, candle }) =>
        candle ? { time, value: candle.volume, color: colourOf(candle) } : { time },
      ),
    );
}

function addSqueeze(chart, colours, pane) {
  const bars = chart.addSeries(HistogramSeries, QUIET, pane);
  const states = chart.addCustomSeries(new SqueezeStates(colours), QUIET, pane);
  return (points, { decimals }) => {
    const formatter = (value) => formatNumber(value, decimals);
    bars.applyOptions({ priceFormat: { type: "custom", formatter, minMove: 10 ** -decimals } });
    bars.setData(points.map((point, at) => momentumBar(point, points[at - 1], colours)));
    states.setData(
      points.map(({ time, lines }) => {
        const on = lines?.squeeze.on ?? null;
        return on === null ? { time } : { time, close: 0, isOn: on === 1 };
      }),
    );
  };
}

/** Momentum that grows is strong in colour, momentum that wanes is faint. */
function momentumBar({ time, lines }, before, colours) {
  const value = lines?.squeeze.momentum ?? null;
  if (value === null) return { time };
  const last = before?.lines?.squeeze.momentum ?? 0;
  const isGrowing = value > 0 ? value > last : value < last;
  return { time, value, color: fade(value < 0 ? colours.down : colours.up, isGrowing ? 0.9 : 0.4) };
}

function addStochRsi(chart, colours, pane) {
  const options = {
    ...QUIET,
    lineWidth: 1,
    crosshairMarkerVisible: false,
    autoscaleInfoProvider: () => ({ priceRange: { minValue: 0, maxValue: 100 } }),
    priceFormat: { type: "custom", formatter: (value) => formatNumber(value), minMove: 1 },
  };
  const k = chart.addSeries(LineSeries, { ...options, color: colours.accent }, pane);
  const d = chart.addSeries(LineSeries, { ...options, color: colours.warn }, pane);
  for (const price of [STOCH_RSI_LOW, STOCH_RSI_HIGH]) {
    const look = { color: colours.edge, lineWidth: 1, lineStyle: LineStyle.Dotted };
    k.createPriceLine({ price, axisLabelVisible: false, ...look });
  }
  return (points) => {
    k.setData(points.map(({ time, lines }) => linePoint(time, lines?.stoch_rsi.k)));
    d.setData(points.map(({ time, lines }) => linePoint(time, lines?.stoch_rsi.d)));
  };
}

function linePoint(time, value) {
  return value == null ? { time } : { time, value };
}

// --- legends ---

function describeRibbon({ lines: { ribbon } }) {
  return Object.entries(ribbon).map(([period, ema]) => [
    ema === null ? null : `${period}: ${formatPrice(ema)}`,
    "accent",
  ]);
}

function describeVwap({ lines: { vwap } }) {
  return [[vwap.vwap && formatPrice(vwap.vwap), "warn"]];
}

function describeBands({ lines: { bands } }) {
  return ["lower", "middle", "upper"].map((name) => [bands[name] && formatPrice(bands[name])]);
}

function describeVolume({ candle }) {
  return [[formatCompact(candle.volume)]];
}

function describeSqueeze({ lines: { squeeze } }, { decimals }) {
  if (squeeze.on === null) return [[null]];
  const momentum = formatNumber(squeeze.momentum, decimals);
  return [[squeeze.on ? "● on" : "○ off"], [momentum, squeeze.momentum < 0 ? "down" : "up"]];
}

function describeStochRsi({ lines: { stoch_rsi: stochRsi } }) {
  if (stochRsi.k === null) return [[null]];
  return [
    [`K ${formatNumber(stochRsi.k, 1)}`, "accent"],
    [`D ${formatNumber(stochRsi.d, 1)}`, "warn"],
  ];
}
