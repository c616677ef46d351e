// A coin's candles as a chart, in SVG, with a crosshair. It takes candles and fills an element with
// them; it asks nobody. Colours come from the style sheet, so that light and dark both work.

import { html, svg } from "../shared/dom.js";
import {
  DAY_MS,
  HOUR_MS,
  clamp,
  formatCompact,
  formatDay,
  formatNumber,
  formatPrice,
  formatSigned,
  formatTime,
} from "../shared/format.js";

const USUAL_CANDLES = 120;
const MIN_SLOT_PX = 6; // a candle and the gap beside it
const AXIS_WIDTH_PX = 88; // holds "0.00001234"
const AXIS_HEIGHT_PX = 20;
const VOLUME_SHARE = 0.16; // of the plot's height
const PRICE_PADDING = 0.06; // of the range of prices, above and below
const PRICE_TICK_PX = 44;
const TIME_TICK_PX = 84;
const LABEL_HEIGHT_PX = 18;
const TIME_STEPS_H = [0.25, 0.5, 1, 2, 3, 6, 12, 24, 48, 96, 192, 384];

/**
 * Candles and volumes of one series, with axes and a crosshair that follows the pointer and the
 * arrow keys. The newest candles are shown, about 120, or fewer where there is less room.
 */
export class CandleChart {
  #area;
  #readout;
  #drawing = svg("g");
  #crosshair = svg("g", { class: "crosshair" });
  #svg;
  #series = null;
  #scales = null;
  #pointedAt = null; // open time of the candle under the crosshair, ms UTC

  /**
   * @param {HTMLElement} area filled with the chart, which follows its size
   * @param {HTMLElement} readout says the values of the candle pointed at, or of the last one
   */
  constructor(area, readout) {
    this.#area = area;
    this.#readout = readout;
    const attributes = { class: "candles", tabindex: "0", role: "application" };
    this.#svg = svg("svg", attributes, this.#drawing, this.#crosshair);
    this.#listenToPointer();
    this.#listenToKeys();
    new ResizeObserver(() => this.#draw()).observe(area);
  }

  /**
   * @param {Object} series
   * @param {string} series.label what the chart shows, for screen readers
   * @param {Object[]} series.candles oldest first, at least one; `timestamp` is the open time
   * @param {number} series.lengthMs length of a candle
   * @param {number} series.price the last price
   * @param {number} series.formingSince open time of the candle that is not closed yet, ms UTC
   */
  show(series) {
    this.#series = series;
    this.#svg.setAttribute("aria-label", `${series.label}. Arrow keys go from candle to candle.`);
    if (this.#svg.parentElement !== this.#area) this.#area.replaceChildren(this.#svg);
    this.#draw();
  }

  /** Shows a message instead of candles. */
  clear(message) {
    this.#series = null;
    this.#pointedAt = null;
    if (this.#area.textContent !== message) {
      this.#area.replaceChildren(html("p", { class: "empty" }, message));
    }
    this.#readout.replaceChildren();
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#area;
    if (!this.#series || !width || !height) return;
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#scales = makeScales(this.#series, width, height);
    this.#drawing.replaceChildren(...drawSeries(this.#series, this.#scales));
    this.#drawCrosshair();
  }

  #drawCrosshair() {
    const { candles, formingSince } = this.#series;
    const pointed = candles.find((candle) => candle.timestamp === this.#pointedAt);
    const lines = pointed ? drawCrosshair(pointed, this.#scales) : [];
    this.#crosshair.replaceChildren(...lines);
    const shown = pointed ?? candles.at(-1);
    fillReadout(this.#readout, shown, shown.timestamp === formingSince);
  }

  #pointAt(timestamp) {
    this.#pointedAt = timestamp;
    this.#drawCrosshair();
  }

  #listenToPointer() {
    this.#svg.addEventListener("pointermove", (event) => {
      const x = event.clientX - this.#svg.getBoundingClientRect().left;
      this.#pointAt(this.#scales.nearest(x).timestamp);
    });
    this.#svg.addEventListener("pointerleave", () => this.#pointAt(null));
  }

  #listenToKeys() {
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    this.#svg.addEventListener("keydown", (event) => {
      if (!(event.key in moves)) return;
      event.preventDefault();
      const { visible } = this.#scales;
      const at = visible.findIndex((candle) => candle.timestamp === this.#pointedAt);
      const from = at < 0 ? visible.length : at;
      this.#pointAt(visible[clamp(from + moves[event.key], 0, visible.length - 1)].timestamp);
    });
    // Keys are answered aloud; what the pointer or a refresh changes is not.
    this.#svg.addEventListener("focus", () => this.#readout.setAttribute("aria-live", "polite"));
    this.#svg.addEventListener("blur", () => {
      this.#readout.removeAttribute("aria-live");
      if (this.#series) this.#pointAt(null);
    });
  }
}

/** Where times, prices and volumes are on an area of `width` x `height` pixels. */
function makeScales({ candles, lengthMs, price }, width, height) {
  const plotWidth = width - AXIS_WIDTH_PX;
  const plotHeight = height - AXIS_HEIGHT_PX;
  const slot = Math.max(MIN_SLOT_PX, Math.floor(plotWidth / USUAL_CANDLES));
  const slots = Math.floor(plotWidth / slot);
  const lastTime = candles.at(-1).timestamp;
  const firstTime = lastTime - (slots - 1) * lengthMs;
  const visible = candles.filter((candle) => candle.timestamp >= firstTime);
  const left = plotWidth - slots * slot;
  const priceHeight = plotHeight * (1 - VOLUME_SHARE);
  const [low, high] = priceRange(visible, price);
  const mostVolume = Math.max(...visible.map((candle) => candle.volume)) || 1;
  const volumeHeight = plotHeight * VOLUME_SHARE - 6;
  // By time and not by place in the list: where the exchange has no candle there is a gap.
  const x = (time) => left + ((time - firstTime) / lengthMs + 0.5) * slot;
  return {
    width,
    plotWidth,
    plotHeight,
    slot,
    visible,
    low,
    high,
    firstTime,
    lastTime,
    lengthMs,
    x,
    priceY: (value) => ((high - value) / (high - low)) * priceHeight,
    volumeY: (volume) => plotHeight - (volume / mostVolume) * volumeHeight,
    nearest: (at) => nearest(visible, (candle) => Math.abs(x(candle.timestamp) - at)),
  };
}

function priceRange(candles, price) {
  const low = Math.min(price, ...candles.map((candle) => candle.low));
  const high = Math.max(price, ...candles.map((candle) => candle.high));
  const padding = (high - low) * PRICE_PADDING || high * 0.01;
  return [low - padding, high + padding];
}

function nearest(items, distance) {
  return items.reduce((best, item) => (distance(item) < distance(best) ? item : best));
}

function drawSeries(series, scales) {
  const rising = scales.visible.filter((candle) => candle.close >= candle.open);
  const falling = scales.visible.filter((candle) => candle.close < candle.open);
  return [
    ...drawPriceAxis(scales),
    ...drawTimeAxis(scales),
    ...drawForming(series, scales),
    ...drawCandles("up", rising, scales),
    ...drawCandles("down", falling, scales),
    ...drawPriceLabel("last-price", series.price, scales),
  ];
}

/** Wicks, bodies (hollow if rising, by the style sheet) and volumes: three paths. */
function drawCandles(direction, candles, { slot, x, priceY, volumeY, plotHeight }) {
  const bodyWidth = 2 * Math.floor(slot * 0.35) + 1; // odd, so that the wick is in its middle
  const wicks = [];
  const bodies = [];
  const volumes = [];
  for (const candle of candles) {
    const middle = crisp(x(candle.timestamp));
    const left = middle - (bodyWidth - 1) / 2;
    const top = crisp(priceY(Math.max(candle.open, candle.close)));
    const bottom = crisp(priceY(Math.min(candle.open, candle.close)));
    wicks.push(`M${middle} ${crisp(priceY(candle.high))}V${crisp(priceY(candle.low))}`);
    bodies.push(`M${left} ${top}h${bodyWidth - 1}V${bottom}h${1 - bodyWidth}z`);
    const volumeTop = Math.round(volumeY(candle.volume));
    volumes.push(`M${left - 0.5} ${plotHeight}V${volumeTop}h${bodyWidth}V${plotHeight}z`);
  }
  return [
    svg("path", { class: `volume ${direction}`, d: volumes.join("") }),
    svg("path", { class: `wick ${direction}`, d: wicks.join("") }),
    svg("path", { class: `body ${direction}`, d: bodies.join("") }),
  ];
}

/** A shade behind the candle that is not closed yet, if it is the last one. */
function drawForming({ formingSince }, { lastTime, slot, x, plotHeight }) {
  if (lastTime !== formingSince) return [];
  const left = x(lastTime) - slot / 2;
  const label = { class: "forming-label", x: left - 4, y: 12, "text-anchor": "end" };
  return [
    svg("rect", { class: "forming", x: left, y: 0, width: slot, height: plotHeight }),
    svg("text", label, "forming"),
  ];
}

function drawPriceAxis({ low, high, priceY, plotWidth, plotHeight }) {
  const step = roundStep(((high - low) * PRICE_TICK_PX) / plotHeight);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const parts = [];
  for (let tick = Math.ceil(low / step); tick * step < high; tick += 1) {
    const y = crisp(priceY(tick * step));
    const label = { class: "tick", x: plotWidth + 8, y: y + 4 };
    parts.push(svg("path", { class: "grid", d: `M0 ${y}H${plotWidth}` }));
    parts.push(svg("text", label, formatNumber(tick * step, decimals)));
  }
  return parts;
}

/** The next of 1, 2, 5, 10, 20, 50 … above `least`, at any scale. */
function roundStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= least);
}

function drawTimeAxis({ firstTime, lastTime, lengthMs, slot, x, plotWidth, plotHeight }) {
  const leastMs = (TIME_TICK_PX / slot) * lengthMs;
  const stepMs = HOUR_MS * (TIME_STEPS_H.find((hours) => hours * HOUR_MS >= leastMs) ?? 768);
  const parts = [];
  for (let time = Math.ceil(firstTime / stepMs) * stepMs; time <= lastTime; time += stepMs) {
    const at = crisp(x(time));
    const label = time % DAY_MS === 0 ? formatDay(time) : formatTime(time).slice(0, 5);
    const isWhole = at > TIME_TICK_PX / 4 && at < plotWidth - TIME_TICK_PX / 4;
    const attributes = { class: "tick", x: at, y: plotHeight + 15, "text-anchor": "middle" };
    parts.push(svg("path", { class: "grid", d: `M${at} 0V${plotHeight}` }));
    if (isWhole) parts.push(svg("text", attributes, label));
  }
  const zone = { class: "tick", x: plotWidth + 8, y: plotHeight + 15 };
  return [...parts, svg("text", zone, "UTC")];
}

/** A line across the plot at a price, which stands on the axis. */
function drawPriceLabel(name, price, { priceY, plotWidth, width }) {
  const y = crisp(priceY(price));
  const top = y - LABEL_HEIGHT_PX / 2;
  const tag = { x: plotWidth + 2, y: top, width: width - plotWidth - 2, height: LABEL_HEIGHT_PX };
  return [
    svg("path", { class: `${name}-line`, d: `M0 ${y}H${plotWidth}` }),
    svg("rect", { class: `${name}-tag`, rx: 3, ...tag }),
    svg("text", { class: `${name}-text`, x: plotWidth + 8, y: y + 4 }, formatPrice(price)),
  ];
}

function drawCrosshair(candle, scales) {
  const x = crisp(scales.x(candle.timestamp));
  const line = svg("path", { class: "pointer-line", d: `M${x} 0V${scales.plotHeight}` });
  return [line, ...drawPriceLabel("pointer", candle.close, scales)];
}

/** Half a pixel off, where a line of one pixel is not smeared over two. */
function crisp(value) {
  return Math.round(value) + 0.5;
}

/** Time, O, H, L, C, volume and change of a candle, in the digits that its price asks for. */
function fillReadout(element, candle, isForming) {
  const { timestamp, open, high, low, close, volume } = candle;
  const change = (close / open - 1) * 100;
  const time = `${formatDay(timestamp)} ${formatTime(timestamp).slice(0, 5)} UTC`;
  element.replaceChildren(
    html("span", { class: "time" }, isForming ? `${time}, forming` : time),
    reading("O", "open", formatPrice(open)),
    reading("H", "high", formatPrice(high)),
    reading("L", "low", formatPrice(low)),
    reading("C", "close", formatPrice(close)),
    reading("V", "volume", formatCompact(volume)),
    html("span", { class: change < 0 ? "down" : "up" }, `${formatSigned(change, 2)} %`),
  );
}

function reading(letter, word, value) {
  const name = html("abbr", { title: word }, letter);
  return html("span", {}, name, " ", value);
}
