// The open positions on the trades page, each with its age and its unrealised profit while its
// price is fresh. Is handed what the server says of them.

import { byId, html, setText } from "../shared/dom.js";
import { formatAge, formatCompact, formatMoment, formatPrice, formatSigned } from "../shared/format.js";
import { clock } from "../shared/server.js";
import { Rows } from "./rows.js";
import { drawChartLink, drawProfit, drawSignal } from "./words.js";

const noPrice = ({ reason }) => reason ?? "no fresh price in Redis";

const rows = new Rows(byId("positions-table"), [
  {
    id: "symbol",
    label: "Coin",
    content: ({ symbol, timeframe }) => [symbol, timeframe],
    draw: drawChartLink,
  },
  { id: "timeframe", label: "Timeframe", content: (position) => position.timeframe },
  {
    id: "signal",
    label: "Bought on",
    content: ({ signal, exit_signal: exit }) => [signal, exit],
    draw: drawReasons,
  },
  {
    id: "age",
    label: "Age",
    isNumber: true,
    content: ({ opened }) => [formatAge(clock.now() - opened), opened],
    draw: ([age, opened]) => html("span", { title: formatMoment(opened, clock.now()) }, age),
  },
  {
    id: "quantity",
    label: "Quantity",
    isNumber: true,
    content: ({ quantity }) => formatCompact(quantity),
  },
  {
    id: "entry",
    label: "Entry",
    isNumber: true,
    content: ({ price }) => formatPrice(price),
  },
  {
    id: "price",
    label: "Price",
    isNumber: true,
    content: ({ current_price: price }) => (price === null ? null : formatPrice(price)),
    reason: noPrice,
  },
  {
    id: "profit",
    label: "Unrealised",
    isNumber: true,
    content: ({ unrealised_profit: profit }) => profit,
    draw: drawProfit,
    reason: noPrice,
  },
  {
    id: "percent",
    label: "%",
    isNumber: true,
    content: ({ unrealised_profit: profit, quantity, price }) =>
      profit === null ? null : (profit / (quantity * price)) * 100,
    draw: drawProfit,
    reason: noPrice,
  },
]);

function drawReasons([signal, exit]) {
  if (!exit) return drawSignal(signal);
  const selling = html("span", { class: "selling" }, "to be sold on ", ...drawSignal(exit));
  return [...drawSignal(signal), " ", selling];
}

/**
 * @param {Object|null} answer of /api/positions; null if it was never known
 * @param {string} staleReason why its prices must not be shown anymore, or ""
 */
export function showPositions(answer, staleReason) {
  const stale = { current_price: null, unrealised_profit: null, reason: staleReason };
  const all = answer?.positions ?? [];
  const positions = staleReason ? all.map((position) => ({ ...position, ...stale })) : all;
  rows.show(positions, (position) => position.symbol);
  byId("positions-table").hidden = !positions.length;
  byId("positions-empty").hidden = positions.length > 0;
  setText(byId("positions-empty"), answer && !answer.error ? "No open positions." : "Not known.");
  setText(byId("positions-sum"), answer && !answer.error ? describeSum(answer, positions) : "");
  byId("trader-note").hidden = staleReason !== "" || answer?.trader_alive !== false;
}

function describeSum({ profit, trades }, positions) {
  const priced = positions.filter((position) => position.unrealised_profit !== null);
  const sum = priced.reduce((total, position) => total + position.unrealised_profit, 0);
  const partly = priced.length < positions.length;
  const unrealised = priced.length ? `unrealised ${formatSigned(sum, 2)}` : "unrealised not known";
  const open = `${positions.length} open, ${unrealised}`;
  const some = partly && priced.length ? ` (${priced.length} of them)` : "";
  const realised = `realised ${formatSigned(profit, 2)} since the book began, in ${trades} fills`;
  return positions.length ? `${open}${some}; ${realised}` : realised;
}
