// What the closed trades amounted to, on the trades page: the sum, the curve, and the tables by coin
// and by signal. Is handed an answer of /api/trades.

import { byId, html, missing, paint, setText } from "../shared/dom.js";
import { formatNumber, formatSigned } from "../shared/format.js";
import { describeEquity, drawEquity } from "./equity.js";
import { filterLink } from "./filters.js";
import { Rows } from "./rows.js";
import { drawCoin, drawProfit, drawSignal } from "./words.js";

/** Each has a name in the answer, a label, and how its value is drawn. */
const FIGURES = [
  { name: "trades", label: "Trades", draw: (count) => formatNumber(count) },
  { name: "profit", label: "Profit", draw: drawProfit },
  { name: "win_rate", label: "Win rate", draw: (percent) => `${formatNumber(percent, 1)} %` },
  { name: "profit_factor", label: "Profit factor", draw: (factor) => formatNumber(factor, 2) },
  { name: "mean", label: "Mean", draw: drawProfit },
  { name: "drawdown", label: "Drawdown", draw: (fall) => formatSigned(-fall, 2) },
  { name: "fees", label: "Fees", draw: (fees) => formatNumber(fees, 2) },
];

const figureColumns = FIGURES.filter(({ name }) => name !== "fees").map(
  ({ name, label, draw }) => ({
    id: name,
    label,
    isNumber: true,
    content: (group) => group[name],
    draw,
    reason: (group) => group.reasons[name],
  }),
);

const bySymbol = new Rows(byId("by-symbol"), [
  {
    id: "symbol",
    label: "Coin",
    content: ({ symbol }) => [symbol, filterLink({ symbol })],
    draw: ([symbol, href]) => html("a", { href }, ...drawCoin(symbol)),
  },
  ...figureColumns,
]);

const bySignal = new Rows(byId("by-signal"), [
  {
    id: "signal",
    label: "Signal",
    content: ({ signal }) => [signal, filterLink({ signal })],
    draw: ([signal, href]) => html("a", { href }, ...drawSignal(signal)),
  },
  ...figureColumns,
]);

/** @param {Object|null} answer null while nothing is known */
export function showResults(answer) {
  const summary = answer?.summary ?? null;
  paint(byId("summary"), summary, () => (summary ? FIGURES.map((f) => drawFigure(f, summary)) : ""));
  const points = answer?.equity ?? [];
  paint(byId("equity-area"), points, () => (points.length ? drawEquity(points) : ""));
  setText(byId("equity-caption"), describe(answer, points));
  bySymbol.show(answer?.by_symbol ?? [], (group) => group.symbol);
  bySignal.show(answer?.by_signal ?? [], (group) => group.signal);
}

function describe(answer, points) {
  if (!answer) return "Not known.";
  return points.length ? describeEquity(points) : "No closed trades.";
}

function drawFigure({ name, label, draw }, summary) {
  const value = summary[name];
  const shown = value === null ? missing(summary.reasons[name]) : [draw(value)].flat();
  return html("div", {}, html("dt", {}, label), html("dd", { "data-figure": name }, ...shown));
}
