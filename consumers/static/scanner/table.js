// The scanner's table: a row a coin, kept in order and filtered. Rows stay the same elements while
// their coins are listed, so that focus, scrolling and selection stay too. What is in a cell is for
// columns.js to say; what the choice of a coin leads to, for the page.

import { COIN_COLUMN, VALUE_COLUMNS, taColumn } from "./columns.js";
import { byId, html, missing, paint, setText } from "../shared/dom.js";

const table = byId("scanner-table");
const tableBody = table.tBodies[0];
const rows = new Map(); // by symbol
const sort = { column: "score", isDescending: true };
let columns = [];
let coins = []; // what the rows show
let chosen = null; // symbol of the row that is marked
let filter = "";
let whyEmpty = ""; // what to say while there is no row

/**
 * Brings header and rows up to date.
 * @param {Object} answer as coins.js makes it
 * @param {string} ifEmpty what to say if it has no coins
 */
export function showTable(answer, ifEmpty) {
  coins = answer.coins;
  whyEmpty = ifEmpty;
  showColumns([COIN_COLUMN, ...VALUE_COLUMNS, ...answer.timeframes.map(taColumn)]);
  for (const coin of coins) showCoin(coin);
  dropRows();
  showOrder();
  showFilter();
  markChosen(chosen);
}

/** Marks the row of the coin whose chart is open; null marks none. */
export function markChosen(wanted) {
  chosen = wanted;
  for (const [symbol, row] of rows) {
    const isChosen = symbol === chosen;
    row.classList.toggle("chosen", isChosen);
    row.querySelector("button").setAttribute("aria-expanded", isChosen);
  }
}

/** Gives the focus to a coin's button, if the coin is still listed. */
export function focusCoin(symbol) {
  rows.get(symbol)?.querySelector("button").focus();
}

/** Calls `choose(symbol)` when a row is clicked, or its button pressed. */
export function onChoice(choose) {
  tableBody.addEventListener("click", (event) => {
    choose(event.target.closest("tr").dataset.symbol);
  });
}

/** Nothing that is stale looks alive. */
export function dimTable(isStale) {
  table.classList.toggle("stale", isStale);
}

/** Takes away the rows of coins that are no longer listed. */
function dropRows() {
  const listed = new Set(coins.map((coin) => coin.symbol));
  for (const [symbol, row] of rows) {
    if (listed.has(symbol)) continue;
    row.remove();
    rows.delete(symbol);
  }
}

function showColumns(newColumns) {
  const ids = (list) => list.map((column) => column.id).join();
  if (ids(newColumns) === ids(columns)) return;
  columns = newColumns;
  table.tHead.replaceChildren(html("tr", {}, ...columns.map(drawHeader)));
  tableBody.replaceChildren();
  rows.clear();
  showSortMarks();
}

function drawHeader({ id, label, unit }) {
  const button = html("button", { type: "button" }, label);
  if (unit) button.append(" ", html("small", {}, unit));
  button.addEventListener("click", () => sortBy(id));
  return html("th", { scope: "col", "data-column": id }, button);
}

function showCoin(coin) {
  const row = rows.get(coin.symbol) ?? addRow(coin.symbol);
  for (const [index, column] of columns.entries()) {
    const content = (column.content ?? column.value)(coin) ?? null;
    const reason = content === null ? reasonFor(coin, column) : null;
    paint(row.cells[index], [content, reason], () =>
      content === null ? missing(reason) : column.draw(content),
    );
  }
}

function addRow(symbol) {
  const cells = columns.map((column) => {
    const label = [column.label, column.unit].filter(Boolean).join(" ");
    const role = column === COIN_COLUMN ? "rowheader" : null;
    return html("td", { role, "data-column": column.id, "data-label": label });
  });
  const row = html("tr", { "data-symbol": symbol }, ...cells);
  rows.set(symbol, row);
  tableBody.append(row);
  return row;
}

function reasonFor(coin, column) {
  return coin.reasons[column.id] ?? coin.reasons.all ?? "no fresh data in Redis";
}

/** The first click on a column puts the highest on top, or A for names; the next one turns it. */
function sortBy(id) {
  const isDescending = id === sort.column ? !sort.isDescending : id !== COIN_COLUMN.id;
  Object.assign(sort, { column: id, isDescending });
  showSortMarks();
  showOrder();
}

function showSortMarks() {
  for (const header of table.tHead.rows[0].cells) {
    const isSorted = header.dataset.column === sort.column;
    if (!isSorted) header.removeAttribute("aria-sort");
    else header.setAttribute("aria-sort", sort.isDescending ? "descending" : "ascending");
  }
}

function showOrder() {
  const { value } = columns.find((column) => column.id === sort.column) ?? COIN_COLUMN;
  const ordered = coins.toSorted(
    (a, b) => compare(value(a), value(b)) || a.symbol.localeCompare(b.symbol),
  );
  arrange(ordered.map((coin) => rows.get(coin.symbol)));
}

/** Negative if `a` comes first. Missing values come last in both directions. */
function compare(a, b) {
  if ((a ?? null) === (b ?? null)) return 0;
  if (a == null || b == null) return a == null ? 1 : -1;
  return a < b !== sort.isDescending ? -1 : 1;
}

/** Puts rows in order without moving the one that has the focus: a moved element would lose it. */
function arrange(ordered) {
  let next = null;
  for (const row of ordered.toReversed()) {
    const isInPlace = row.nextElementSibling === next;
    if (!isInPlace && !row.contains(document.activeElement)) tableBody.insertBefore(row, next);
    next = row;
  }
}

function showFilter() {
  const wanted = filter.trim().toUpperCase();
  let shown = 0;
  for (const [symbol, row] of rows) {
    row.hidden = !symbol.includes(wanted);
    shown += row.hidden ? 0 : 1;
  }
  const count = wanted ? `${shown} of ${rows.size}` : `${rows.size} coins`;
  setText(byId("coin-count"), rows.size ? count : "");
  showEmpty(wanted, shown);
}

function showEmpty(wanted, shown) {
  const empty = byId("empty");
  empty.hidden = shown > 0;
  setText(empty, rows.size ? `No coin has “${wanted}” in its name.` : whyEmpty);
}

byId("filter").addEventListener("input", (event) => {
  filter = event.target.value;
  showFilter();
});
