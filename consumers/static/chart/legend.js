// What the chart says in text: of the candle pointed at above it, of indicators and events in
// their panes.

import { hiddenText, html, paint } from "../shared/dom.js";
import { formatCompact, formatPrice, formatSigned } from "../shared/format.js";

/**
 * Time, O, H, L, C, volume, change, and what happened in a candle.
 * @param {{candle: Object, moment: string, isForming: boolean, level: ?number, events: string[]}}
 *   content; `level` is the price under the crosshair
 */
export function fillReadout(element, content) {
  paint(element, content, ({ candle, moment, isForming, level, events }) => {
    const { open, high, low, close, volume } = candle;
    const change = (close / open - 1) * 100;
    return [
      html("span", { class: "time" }, isForming ? `${moment}, forming` : moment),
      reading("O", "open", formatPrice(open)),
      reading("H", "high", formatPrice(high)),
      reading("L", "low", formatPrice(low)),
      reading("C", "close", formatPrice(close)),
      reading("V", "volume", formatCompact(volume)),
      html("span", { class: change < 0 ? "down" : "up" }, `${formatSigned(change, 2)} %`),
      ...(level === null ? [] : [readLevel(level)]),
      ...events.map(hiddenText), // which are seen in the legend, where they take no room
    ];
  });
}

function readLevel(level) {
  const name = html("abbr", { title: "price under the crosshair" }, "Level");
  return html("span", { class: "level" }, name, " ", formatPrice(level));
}

function reading(letter, word, value) {
  const name = html("abbr", { title: word }, letter);
  return html("span", {}, name, " ", value);
}

/**
 * The legend of a pane: each of its indicators with its values at a point, or why it has none, and
 * what happened there.
 * @param {HTMLElement} pane a table row of the library, whose second cell is the plot
 */
export function drawLegend(pane, indicators, point, series, events) {
  const plot = pane?.querySelector("td:nth-child(2) > div");
  if (!plot) return; // the library makes it with the first frame
  const legend = plot.querySelector(".pane-legend") ?? html("ul", { class: "pane-legend" });
  if (!legend.parentElement) plot.append(legend);
  const content = indicators.map(({ id, label, describe }) => {
    const parts = describe(point, series);
    const isKnown = parts.some(([text]) => text !== null);
    return { id, label, parts: isKnown ? parts : [[series.reasons[id] ?? "–"]] };
  });
  paint(legend, [content, events], () => [
    ...content.map(({ id, label, parts }) =>
      html("li", { "data-id": id }, label, ...parts.flatMap(drawPart)),
    ),
    ...events.map((words) => html("li", { class: "event" }, words)),
  ]);
}

function drawPart([text, tone]) {
  return [" ", html("span", { class: tone }, text)];
}
