// A coin's candles and indicators on the library's canvases, with a crosshair for pointer and keys.
// It takes what is to be shown and asks nobody. What it shows of a candle is said in text as well:
// in the readout, and in the legend of each pane.

import {
  CandlestickSeries,
  LineStyle,
  PriceScaleMode,
  createChartEx,
  createSeriesMarkers,
} from "../vendor/lightweight-charts.js";
import { html } from "../shared/dom.js";
import { clamp, formatPrice, zoneName } from "../shared/format.js";
import { onThemeChange, readColours } from "./colours.js";
import { FormingShade } from "./drawings.js";
import { INDICATORS } from "./indicators.js";
import { listenToKeys } from "./keys.js";
import { drawLegend, fillReadout } from "./legend.js";
import { candleOptions, chartOptions } from "./look.js";
import { signalMarkers, tradeMarkers } from "./markers.js";
import { makePoints } from "./points.js";
import { formatMinute, timeScaleIn } from "./times.js";

const USUAL_CANDLES = 120;
const MIN_SPACING_PX = 5; // of the candles shown at first, so a phone shows fewer
const FREE_CANDLES = 4; // room at the right
const AXIS_WIDTH_PX = 90;
const PRICE_SHARE = 3; // height of the candles' pane, in heights of another
const LEGEND_ROOM = { top: 0.26, bottom: 0.08 }; // shares of a pane's height
const SCALES = {
  linear: PriceScaleMode.Normal,
  log: PriceScaleMode.Logarithmic,
  percent: PriceScaleMode.Percentage,
};

/** The chart in an element, made anew by the library whenever a choice or the theme changes. */
export class ChartView {
  #area;
  #readout;
  #choices;
  #host = html("div", { class: "chart-host", tabindex: "0", role: "application" });
  #chart = null; // the library's
  #parts = null; // what was added to it
  #series = null; // what to show
  #points = [];
  #nextRange = null; // what will be in view with the library's next frame
  #pointedAt = null; // open time of the candle under the crosshair, ms UTC
  #level = null; // price under the crosshair
  #isByKeys = false; // whether keys have placed it

  /**
   * @param {HTMLElement} area filled with the chart, which follows its size
   * @param {HTMLElement} readout says the values of the candle pointed at, or of the last one
   * @param {Choices} choices what to show and how
   */
  constructor(area, readout, choices) {
    this.#area = area;
    this.#readout = readout;
    this.#choices = choices;
    listenToKeys(this.#host, readout, this);
    onThemeChange(() => this.rebuild());
  }

  /**
   * @param {Object} series the answer of /api/chart, its forming candle at the live price, with
   *   `lengthMs`, `price` (the last one), `formingSince` (open time of the candle that is not
   *   closed, ms UTC, or null) and `trades`
   */
  show(series) {
    const { symbol, timeframe } = this.#series ?? {};
    const isOther = symbol !== series.symbol || timeframe !== series.timeframe;
    const view = isOther ? null : this.#view();
    if (isOther) this.#pointedAt = null;
    this.#series = { ...series, ...digitsFor(series.price) };
    if (!this.#chart) {
      this.#area.replaceChildren(this.#host);
      this.rebuild();
      return;
    }
    this.#fill();
    this.#setView(view);
  }

  /** Shows a message instead of candles. */
  clear(message) {
    this.#series = null;
    this.#remove();
    if (this.#area.textContent !== message) {
      this.#area.replaceChildren(html("p", { class: "empty" }, message));
    }
    this.#readout.replaceChildren();
  }

  /** Makes the chart again, with the choices and colours of now. */
  rebuild() {
    if (!this.#series) return;
    const view = this.#view();
    this.#remove();
    const colours = readColours(this.#area);
    const { zone, scale } = this.#choices;
    this.#chart = createChartEx(this.#host, timeScaleIn(zone), chartOptions(colours, zone));
    this.#parts = this.#addParts(colours);
    this.#chart.priceScale("right").applyOptions({ mode: SCALES[scale] });
    this.#chart.subscribeCrosshairMove((event) => this.#followPointer(event));
    this.#chart.timeScale().subscribeVisibleLogicalRangeChange(() => {
      this.#describeView();
      this.#placeCrosshair();
    });
    this.#fill();
    this.#setView(view);
    // The library makes the panes, in which legends stand, with its first frame.
    const made = this.#chart;
    requestAnimationFrame(() => made === this.#chart && this.#readOut());
  }

  #remove() {
    this.#chart?.remove();
    this.#chart = null;
    this.#parts = null;
    this.#nextRange = null;
    this.#host.replaceChildren();
  }

  /** The series of the library: first what lies under the candles. */
  #addParts(colours) {
    const chart = this.#chart;
    const shown = INDICATORS.filter(({ id }) => this.#choices.shows(id));
    const overlays = shown.filter(({ add }) => add).reverse(); // the first is on top
    const fills = overlays.map(({ add }) => add(chart, colours));
    const candles = chart.addSeries(CandlestickSeries, candleOptions(colours));
    const forming = new FormingShade(colours);
    candles.attachPrimitive(forming);
    const price = candles.createPriceLine({
      price: 0,
      color: colours.accent,
      lineStyle: LineStyle.Dotted,
      lineWidth: 1,
      axisLabelTextColor: colours.surface,
    });
    const markers = createSeriesMarkers(candles, []);
    const inPanes = shown.filter(({ addPane }) => addPane);
    for (const [at, { addPane }] of inPanes.entries()) {
      fills.push(addPane(chart, colours, at + 1));
      chart.priceScale("right", at + 1).applyOptions({ scaleMargins: LEGEND_ROOM });
    }
    chart.panes()[0].setStretchFactor(PRICE_SHARE);
    const legends = [shown.filter(({ add }) => add), ...inPanes.map((indicator) => [indicator])];
    return { colours, candles, forming, price, markers, fills, legends };
  }

  /** Hands everything that is to be shown to the library. */
  #fill() {
    const { candles, forming, price, markers, fills, colours } = this.#parts;
    const { priceFormat, signals, trades } = this.#series;
    this.#points = makePoints(this.#series);
    candles.applyOptions({ priceFormat });
    candles.setData(this.#points.map(({ time, candle }) => ({ time, ...candle })));
    price.applyOptions({ price: this.#series.price });
    forming.mark(this.#series.formingSince && this.#series.formingSince / 1000);
    for (const fill of fills) fill(this.#points, this.#series);
    const events = [
      ...(this.#choices.shows("signals") ? signalMarkers(signals, colours) : []),
      ...(this.#choices.shows("trades") ? tradeMarkers(trades, this.#series.candles, colours) : []),
    ].sort((a, b) => a.at - b.at);
    markers.setMarkers(events.map(({ at, look }) => ({ time: at / 1000, ...look })));
    this.#parts.events = events;
    this.#describeView();
    this.#placeCrosshair();
    this.#readOut();
  }

  // --- what is in view ---

  /** The first and the last point in view, as the library counts them; null if it has none. */
  #range() {
    return this.#nextRange ?? this.#chart?.timeScale().getVisibleLogicalRange() ?? null;
  }

  /** The library follows with its next frame. Until then `#range` is what it will be, so that several
   *  keys within a frame all count. */
  #setRange(range) {
    this.#nextRange = range;
    this.#chart.timeScale().setVisibleLogicalRange(range);
    requestAnimationFrame(() => {
      if (this.#nextRange === range) this.#nextRange = null;
    });
  }

  /** The library counts points; what it counts is moved when old candles go and new ones come. */
  #view() {
    const range = this.#range();
    if (!range) return null;
    const isAtEnd = range.to >= this.#points.length - 1;
    return { ...range, isAtEnd, count: this.#points.length, first: this.#points[0].time };
  }

  #setView(view) {
    let { from, to } = view ?? this.#firstView();
    if (view) {
      const old = this.#points.findIndex((point) => point.time >= view.first);
      const gone = this.#points[0].time - view.first;
      const dropped = Math.round((gone * 1000) / this.#series.lengthMs);
      const by = view.isAtEnd ? this.#points.length - view.count : old > 0 ? old : -dropped;
      from += by;
      to += by;
    }
    this.#setRange({ from, to });
  }

  #firstView() {
    const room = (this.#area.clientWidth - AXIS_WIDTH_PX) / MIN_SPACING_PX;
    const to = this.#points.length - 1 + FREE_CANDLES;
    return { from: to - Math.min(USUAL_CANDLES, Math.floor(room)), to };
  }

  /** All candles at once. */
  showAll() {
    if (this.#chart) this.#setRange({ from: -1, to: this.#points.length });
  }

  /** The newest candles, as at first. */
  showNewest() {
    if (this.#chart) this.#setView(null);
  }

  /** Shows `factor` as much time around the middle, or around the candle under the crosshair. */
  zoom(factor) {
    const { from, to } = this.#range();
    const at = this.#pointedAt === null ? (from + to) / 2 : this.#indexOf(this.#pointedAt);
    this.#setRange({ from: at - (at - from) * factor, to: at + (to - at) * factor });
  }

  /** In words, for those who do not see it. */
  #describeView() {
    const { symbol, timeframe } = this.#series;
    const keys = "Arrow keys go from candle to candle, plus and minus zoom.";
    this.#host.setAttribute("aria-label", `Candles of ${symbol}, ${timeframe}. ${keys}`);
    const range = this.#chart.timeScale().getVisibleLogicalRange();
    if (!range) return;
    const inView = this.#points
      .slice(Math.max(Math.ceil(range.from), 0), Math.floor(range.to) + 1)
      .filter(({ candle }) => candle);
    const [first, last] = [inView.at(0), inView.at(-1)].map((point) => point && this.#moment(point));
    const words = `${inView.length} of ${this.#series.candles.length} candles in view`;
    this.#host.setAttribute("aria-description", first ? `${words}: ${first} to ${last}` : words);
  }

  #moment({ time }) {
    return `${formatMinute(time * 1000)} ${zoneName(time * 1000)}`;
  }

  // --- the crosshair ---

  #indexOf(timestamp) {
    return this.#points.findIndex((point) => point.time * 1000 === timestamp);
  }

  #followPointer({ time, point, paneIndex, sourceEvent }) {
    if (this.#isByKeys && !sourceEvent) return; // the view has moved, not the pointer
    this.#isByKeys = false;
    this.#pointedAt = time === undefined ? null : time * 1000;
    const isOnPrices = point && paneIndex === 0;
    this.#level = isOnPrices ? this.#parts.candles.coordinateToPrice(point.y) : null;
    this.#readOut();
  }

  /** Moves the crosshair by so many candles; ±Infinity is the first and the last of all. */
  movePointer(by) {
    const withCandle = this.#points.filter(({ candle }) => candle);
    const at = withCandle.findIndex((point) => point.time * 1000 === this.#pointedAt);
    const next = withCandle[clamp((at < 0 ? withCandle.length : at) + by, 0, withCandle.length - 1)];
    this.#pointedAt = next.time * 1000;
    this.#level = null;
    this.#isByKeys = true;
    this.#bringIntoView(this.#points.indexOf(next));
    this.#placeCrosshair();
    this.#readOut();
  }

  /** The library keeps the crosshair where it is on the screen; this one belongs to a candle. */
  #placeCrosshair() {
    const point = this.#isByKeys ? this.#points[this.#indexOf(this.#pointedAt)] : null;
    if (!point) return;
    this.#chart.setCrosshairPosition(point.candle.close, point.time, this.#parts.candles);
  }

  #bringIntoView(index) {
    const { from, to } = this.#range();
    const by = Math.min(index - 1 - from, 0) || Math.max(index + 1 - to, 0);
    if (by) this.#setRange({ from: from + by, to: to + by });
  }

  /** Takes the crosshair away. */
  dropPointer() {
    this.#pointedAt = null;
    this.#isByKeys = false;
    this.#chart?.clearCrosshairPosition();
    if (this.#series) this.#readOut();
  }

  get isShown() {
    return this.#chart !== null;
  }

  #readOut() {
    const { formingSince } = this.#series;
    const point =
      this.#points.find(({ time, candle }) => candle && time * 1000 === this.#pointedAt) ??
      this.#points.at(-1);
    const { legends, events } = this.#parts;
    const here = events.filter(({ at }) => at === point.time * 1000).map(({ words }) => words);
    fillReadout(this.#readout, {
      candle: point.candle,
      moment: this.#moment(point),
      isForming: point.time * 1000 === formingSince,
      level: this.#level,
      events: here,
    });
    for (const [at, pane] of this.#chart.panes().entries()) {
      const happened = at === 0 ? here : [];
      drawLegend(pane.getHTMLElement(), legends[at], point, this.#series, happened);
    }
  }
}

/** How many decimals `formatPrice` shows, and the library's format with as many. */
function digitsFor(price) {
  const decimals = formatPrice(price).split(".")[1].length;
  const priceFormat = { type: "custom", formatter: formatPrice, minMove: 10 ** -decimals };
  return { decimals, priceFormat };
}
