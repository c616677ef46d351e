// What the library does not draw: lines over the candles, the state of the squeeze, the candle that
// is still forming. Each class is a plugin of the library, which calls `draw` for each frame.

import { customSeriesDefaultOptions } from "../vendor/lightweight-charts.js";
import { fade } from "./colours.js";

const MIN_DOTS_PX = 5; // between candles: nearer to each other dots become bars

/** What both series have in common. An item of either without `close` is a gap. */
class HandDrawn {
  data = { bars: [], visibleRange: null, barSpacing: 1 };

  renderer() {
    return this;
  }

  update(data) {
    this.data = data;
  }

  isWhitespace(item) {
    return item.close === undefined;
  }

  defaultOptions() {
    return customSeriesDefaultOptions;
  }

  /** The items in view, and one more on each side, for lines lead out of the plot. */
  visible() {
    const { bars, visibleRange, barSpacing } = this.data;
    if (!visibleRange || !bars[visibleRange.from]) return [];
    const first = bars[visibleRange.from]; // of those out of view the library keeps an old `x`
    return bars
      .slice(Math.max(visibleRange.from - 1, 0), visibleRange.to + 1)
      .map((bar) => ({ ...bar, x: first.x + (bar.time - first.time) * barSpacing }));
  }
}

/**
 * Lines over the candles. Items are {time, close, values, isFirst}: a number or null for each line;
 * lines start anew at an item with `isFirst`.
 *
 * Lines of the library would not do: as percentages each has a zero of its own. These hand the
 * library the close, so that it converts them as it does the candles.
 */
export class LinesOverCandles extends HandDrawn {
  #looks;
  #filling;

  /**
   * @param {{colour: string, width: number, dash?: number[]}[]} looks of each line
   * @param {?string} filling colour between the first line and the last
   */
  constructor(looks, filling = null) {
    super();
    this.#looks = looks;
    this.#filling = filling;
  }

  priceValueBuilder({ close, values }) {
    const known = values.filter((value) => value !== null);
    return [Math.min(close, ...known), Math.max(close, ...known), close];
  }

  draw(target, toY) {
    target.useMediaCoordinateSpace(({ context }) => {
      const paths = this.#looks.map((_, line) => tracePath(this.visible(), line, toY));
      context.lineJoin = "round";
      if (this.#filling) this.#fill(context, toY);
      for (const [line, { colour, width, dash }] of this.#looks.entries()) {
        Object.assign(context, { strokeStyle: colour, lineWidth: width });
        context.setLineDash(dash ?? []);
        context.stroke(paths[line]);
      }
    });
  }

  #fill(context, toY) {
    const known = this.visible().filter((bar) => !bar.originalData.values.includes(null));
    const edge = (line) => known.map((bar) => [bar.x, toY(bar.originalData.values.at(line))]);
    const area = new Path2D();
    for (const [x, y] of [...edge(0), ...edge(-1).reverse()]) area.lineTo(x, y);
    context.fillStyle = this.#filling;
    context.fill(area);
  }
}

function tracePath(bars, line, toY) {
  const path = new Path2D();
  let isDrawing = false;
  for (const { x, originalData } of bars) {
    const value = originalData.values[line];
    if (value !== null) {
      if (isDrawing && !originalData.isFirst) path.lineTo(x, toY(value));
      else path.moveTo(x, toY(value));
    }
    isDrawing = value !== null;
  }
  return path;
}

/**
 * The state of the squeeze on the zero line: a filled dot where it is on, a ring where it is off.
 * Items are {time, close: 0, isOn}.
 */
export class SqueezeStates extends HandDrawn {
  #colours;

  constructor(colours) {
    super();
    this.#colours = colours;
  }

  priceValueBuilder({ close }) {
    return [close];
  }

  draw(target, toY) {
    const { barSpacing } = this.data;
    const drawState = barSpacing < MIN_DOTS_PX ? drawDash : drawDot;
    target.useMediaCoordinateSpace(({ context }) => {
      context.lineWidth = 1;
      for (const { x, originalData } of this.visible()) {
        context.fillStyle = originalData.isOn ? this.#colours.text : this.#colours.surface;
        context.strokeStyle = originalData.isOn ? this.#colours.text : this.#colours.muted;
        drawState(context, x, toY(0), originalData.isOn, barSpacing);
      }
    });
  }
}

function drawDot(context, x, y) {
  context.beginPath();
  context.arc(x, y, 2, 0, 2 * Math.PI);
  context.fill();
  context.stroke();
}

function drawDash(context, x, y, isOn, width) {
  if (isOn) context.fillRect(x - width / 2, y - 1.5, width, 3);
}

/** A shade behind the candle that is not closed yet, with the word beside it. */
export class FormingShade {
  #colours;
  #chart = null;
  #time = null;

  constructor(colours) {
    this.#colours = colours;
  }

  /** @param {?number} time of the candle in seconds UTC, null if there is none */
  mark(time) {
    this.#time = time;
  }

  attached({ chart }) {
    this.#chart = chart;
  }

  paneViews() {
    return [{ zOrder: () => "bottom", renderer: () => this }];
  }

  draw(target) {
    const scale = this.#chart.timeScale();
    const x = this.#time && scale.timeToCoordinate(this.#time);
    if (x === null) return;
    const { from, to } = scale.getVisibleLogicalRange();
    const barSpacing = scale.width() / (to - from);
    target.useMediaCoordinateSpace(({ context, mediaSize }) => {
      context.fillStyle = fade(this.#colours.edge, 0.2);
      context.fillRect(x - barSpacing / 2, 0, barSpacing, mediaSize.height);
      Object.assign(context, { font: "11px system-ui, sans-serif", textAlign: "right" });
      context.fillStyle = this.#colours.muted;
      context.fillText("forming", x - barSpacing / 2 - 4, mediaSize.height - 6);
    });
  }
}
