// The small drawings, in SVG, that stand in tables and cards beside their numbers. They take
// numbers and give elements. Colours come from the style sheet, so that light and dark both work.

import { svg } from "./dom.js";
import { MINUTE_MS, clamp } from "./format.js";

const SPARK_WIDTH = 112;
const SPARK_HEIGHT = 24;
const METER_WIDTH = 56;
const METER_HEIGHT = 12;

/** A line through closes, oldest first; at least two. */
export function sparkline(closes) {
  const low = Math.min(...closes);
  const range = Math.max(...closes) - low || 1;
  const x = (index) => 1 + (index / (closes.length - 1)) * (SPARK_WIDTH - 5);
  const y = (close) => SPARK_HEIGHT - 3 - ((close - low) / range) * (SPARK_HEIGHT - 6);
  const points = closes.map((close, index) => `${x(index).toFixed(1)},${y(close).toFixed(1)}`);
  const last = closes.at(-1);
  return svg(
    "svg",
    { ...box(SPARK_WIDTH, SPARK_HEIGHT), class: last >= closes[0] ? "spark up" : "spark down" },
    svg("polyline", { points: points.join(" ") }),
    svg("circle", { cx: x(closes.length - 1), cy: y(last), r: 2 }),
  );
}

/** Where a price is between two bands: 0 is the lower, 1 the upper; far outside it stops. */
export function bandsMeter(place) {
  const margin = 10; // for what is outside the bands
  const x = (at) => margin + at * (METER_WIDTH - 2 * margin);
  const middle = METER_HEIGHT / 2;
  return svg(
    "svg",
    { ...box(METER_WIDTH, METER_HEIGHT), class: "meter" },
    svg("path", { class: "track", d: `M${x(0)} ${middle}H${x(1)}M${x(0)} 2v8M${x(1)} 2v8` }),
    svg("circle", { cx: x(clamp(place, -0.25, 1.25)), cy: middle, r: 3.5 }),
  );
}

/** A score from -100 to 100 as a bar to the left or the right of the middle. */
export function scoreBar(score) {
  const middle = METER_WIDTH / 2;
  const end = middle + (clamp(score, -100, 100) / 100) * middle;
  return svg(
    "svg",
    { ...box(METER_WIDTH, METER_HEIGHT), class: score < 0 ? "score-bar down" : "score-bar up" },
    svg("path", { class: "track", d: `M0 6H${METER_WIDTH}` }),
    svg("rect", { x: Math.min(middle, end), y: 3, width: Math.abs(end - middle), height: 6 }),
    svg("path", { class: "zero", d: `M${middle} 0V${METER_HEIGHT}` }),
  );
}

const MINUTE_BARS = 30;
const MINUTE_BAR_WIDTH = 10;
const MINUTE_BARS_HEIGHT = 44;

/**
 * Bars of the counts of the last 30 minutes; the last minute is still running.
 * @param {Array<[number, number]>} counts minute's start in ms UTC and its count, oldest first
 */
export function minuteBars(counts) {
  const width = MINUTE_BARS * MINUTE_BAR_WIDTH;
  const lastStart = counts.at(-1)[0];
  const most = Math.max(1, ...counts.map(([, count]) => count));
  const bars = counts.map(([start, count]) => {
    const minutesAgo = (lastStart - start) / MINUTE_MS;
    const height = (count / most) * MINUTE_BARS_HEIGHT;
    return svg("rect", {
      x: width - (minutesAgo + 1) * MINUTE_BAR_WIDTH + 1,
      y: MINUTE_BARS_HEIGHT - height,
      width: MINUTE_BAR_WIDTH - 2,
      height,
      class: minutesAgo === 0 ? "running" : null,
    });
  });
  const ground = svg("path", { class: "track", d: `M0 ${MINUTE_BARS_HEIGHT + 0.5}H${width}` });
  const attributes = { ...box(width, MINUTE_BARS_HEIGHT + 1), class: "minute-bars" };
  return svg("svg", attributes, ...bars, ground);
}

/** Size of a drawing that has its words beside it, so that a screen reader can pass it over. */
function box(width, height) {
  return { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" };
}
