// The equity curve: the running sum of the profits of closed trades, in SVG. Colours come from the
// style sheet, so that light and dark both work.

import { html, svg } from "../shared/dom.js";
import { formatDayTime, formatSigned, zoneName } from "../shared/format.js";

// Of the drawing, which is stretched to the room that there is; its lines are not.
const WIDTH = 1000;
const HEIGHT = 160;

/** @param {Array<[number, number]>} points ms UTC and sum, oldest first, at least two */
export function drawEquity(points) {
  const sums = points.map(([, sum]) => sum);
  const [low, high] = [Math.min(0, ...sums), Math.max(0, ...sums)];
  const [first, last] = [points[0][0], points.at(-1)[0]];
  const x = (time) => (((time - first) / (last - first || 1)) * WIDTH).toFixed(1);
  const y = (sum) => (((high - sum) / (high - low || 1)) * HEIGHT).toFixed(1);
  // In steps: between two closes nothing is won or lost.
  const steps = points.slice(1).map(([time, sum]) => `H${x(time)}V${y(sum)}`);
  const line = [`${x(first)} ${y(points[0][1])}`, ...steps].join("");
  const attributes = {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  };
  const drawing = svg(
    "svg",
    attributes,
    svg("path", { class: "fill", d: `M${line}V${y(0)}H${x(first)}z` }),
    svg("path", { class: "zero", d: `M0 ${y(0)}H${WIDTH}` }),
    svg("path", { class: "line", d: `M${line}` }),
  );
  const scale = [formatSigned(high, 2), formatSigned(low, 2)].map((text) =>
    html("span", {}, text),
  );
  const times = [first, last].map((time) => html("span", {}, formatDayTime(time)));
  return [
    html("div", { class: "scale", "aria-hidden": "true" }, ...scale),
    drawing,
    html("div", { class: "times", "aria-hidden": "true" }, ...times),
  ];
}

/** The curve in words. */
export function describeEquity(points) {
  const sums = points.map(([, sum]) => sum);
  const [low, high] = [Math.min(...sums), Math.max(...sums)].map((sum) => formatSigned(sum, 2));
  const [first, last] = [points[0][0], points.at(-1)[0]].map(formatDayTime);
  const zone = zoneName(points.at(-1)[0]);
  const end = formatSigned(sums.at(-1), 2);
  const when = `${first} to ${last} ${zone}`;
  return `Running sum of profits, ${when}: ${end} at the end, between ${low} and ${high}.`;
}
