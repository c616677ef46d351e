// How the trades page writes coins, amounts and moments.

import { html } from "../shared/dom.js";
import { formatSigned, splitSymbol } from "../shared/format.js";

export function drawCoin(symbol) {
  const [base, quote] = splitSymbol(symbol);
  return [html("b", {}, base), html("small", {}, quote)];
}

/** A coin that leads to its chart. */
export function drawChartLink([symbol, timeframe]) {
  const query = new URLSearchParams({ coin: symbol, tf: timeframe });
  return html("a", { href: `/?${query}`, title: "Chart" }, ...drawCoin(symbol));
}

/** A signal, which may be broken after each of its words. */
export function drawSignal(signal) {
  return signal.split(/(?<=_)/).flatMap((word) => [word, html("wbr")]);
}

/** An amount with its sign, coloured. */
export function drawProfit(amount) {
  const text = formatSigned(amount, 2);
  return html("span", { class: /[1-9]/.test(text) ? (amount > 0 ? "up" : "down") : "flat" }, text);
}

/** The quote currencies of symbols, in order: ["USDT"]. */
export function quotesOf(symbols) {
  return [...new Set(symbols.map((symbol) => splitSymbol(symbol)[1] || "others"))].sort();
}
