// The row above the header that says what the signs of the analyses mean, where they are seen.

import { html } from "../shared/dom.js";

/** A row for the table's head, over `columns`. */
export function drawLegend(columns) {
  const before = columns.findIndex((column) => column.isAnalysis);
  const words = html("td", { colspan: columns.length - before, class: "signs" }, ...drawSigns());
  if (before < 0) return html("tr", { class: "legend-row", hidden: true });
  return html("tr", { class: "legend-row" }, html("td", { colspan: before }), words);
}

function drawSigns() {
  const sign = (name, ...content) => html("span", { class: name }, ...content);
  return [
    sign("group", sign("up", "▲"), " up ", sign("down", "▼"), " down – mixed"),
    " ",
    sign("group", "squeeze ● on ○ off"),
    " ",
    sign("group", "Stoch RSI ", sign("zone-low", "low"), " ", sign("zone-high", "high")),
  ];
}
