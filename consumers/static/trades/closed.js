// The closed trades that the filters let pass, a page at a time, with their results. Asks for them
// when it is told to; an answer that is not to what is wanted by then is never shown.

import { byId, setText } from "../shared/dom.js";
import { formatAge, formatCompact, formatDayTime, formatNumber, formatPrice, sentence } from "../shared/format.js";
import { ServerError, fetchJson } from "../shared/server.js";
import { goToPage, onFilter, showFilters, wanted } from "./filters.js";
import { showResults } from "./results.js";
import { Rows } from "./rows.js";
import { drawChartLink, drawProfit, drawSignal, quotesOf } from "./words.js";

const rows = new Rows(byId("trades-table"), [
  {
    id: "symbol",
    label: "Coin",
    content: ({ symbol, timeframe }) => [symbol, timeframe],
    draw: drawChartLink,
  },
  { id: "closed", label: "Closed", isTime: true, content: ({ closed }) => formatDayTime(closed) },
  { id: "timeframe", label: "Timeframe", content: (trade) => trade.timeframe },
  { id: "signal", label: "Bought on", content: (trade) => trade.signal, draw: drawSignal },
  {
    id: "exit_signal",
    label: "Sold on",
    content: (trade) => trade.exit_signal,
    draw: drawSignal,
  },
  number("quantity", "Quantity", (trade) => formatCompact(trade.quantity)),
  number("entry_price", "Entry", (trade) => formatPrice(trade.entry_price)),
  number("exit_price", "Exit", (trade) => formatPrice(trade.exit_price)),
  number("fees", "Fees", (trade) => formatNumber(trade.fees, 2)),
  number("profit", "Profit", (trade) => trade.profit, drawProfit),
  number("profit_pct", "%", (trade) => trade.profit_pct, drawProfit),
  number("duration", "Duration", ({ opened, closed }) => formatAge(closed - opened)),
]);

function number(id, label, content, draw) {
  return { id, label, isNumber: true, content, draw };
}

let answer = null; // to what is in `answered`
let answered = null; // the query of `answer`
let asking = null; // the AbortController of the request that is under way
let problem = ""; // of the last request

/** Asks again, unless a request is under way. */
export function refreshTrades() {
  if (!asking) load();
}

/** Shows everything again, because times look different. */
export function redrawTrades() {
  if (answer) show();
}

async function load() {
  asking?.abort();
  const mine = new AbortController();
  asking = mine;
  const query = wanted().toString();
  try {
    const body = await fetchJson(`/api/trades?${query}`, mine.signal);
    [answer, answered, problem] = [body, query, ""];
  } catch (error) {
    if (error.name === "AbortError") return; // others are wanted by now
    if (!(error instanceof ServerError)) throw error;
    if (answered !== query) answer = null;
    problem = sentence(error.message);
  }
  asking = null;
  show();
}

function show() {
  showFilters(answer?.choices);
  showResults(answer);
  rows.show(answer?.trades ?? [], (trade) => trade.id);
  byId("trades-table").hidden = !answer?.trades.length;
  setText(byId("trades-shown"), answer ? describePage(answer) : "Not known.");
  byId("page-newest").disabled = !wanted().get("before");
  byId("page-older").disabled = !answer?.next;
  byId("results").classList.toggle("stale", problem !== "");
  setText(byId("trades-note"), problem || describeNotes(answer));
}

function describePage({ trades, newer, summary }) {
  if (!trades.length) return summary.trades ? "None on this page." : "None.";
  const [first, last] = [newer + 1, newer + trades.length].map((n) => formatNumber(n));
  return `${first} to ${last} of ${formatNumber(summary.trades)}`;
}

function describeNotes({ bad, by_symbol: groups }) {
  const notes = [];
  if (bad) notes.push(`${formatNumber(bad)} entries of paper:trades:log are not trades: left out.`);
  const quotes = quotesOf(groups.map((group) => group.symbol));
  if (quotes.length > 1) notes.push(`The sums mix currencies: ${quotes.join(", ")}.`);
  return notes.join(" ");
}

/** A page begins at its top. */
function turn(before) {
  goToPage(before);
  byId("trades-title").focus();
}

byId("page-newest").addEventListener("click", () => turn(""));
byId("page-older").addEventListener("click", () => turn(answer.next));
onFilter(() => {
  showFilters(answer?.choices);
  load();
});
