// The scanner's table: a row a coin, kept in order and filtered. Rows stay the same elements while
// their coins are listed, so that focus, scrolling and selection stay too. What is in a cell is for
// columns.js to say; what the choice of a coin leads to, for the page.

import { chooseColumns } from "./column-choice.js";
import { COIN_COLUMN, VALUE_COLUMNS, taColumns } from "./columns.js";
import {
  areFavouritesAlone,
  isFavourite,
  toggleFavourite,
  toggleFavouritesAlone,
} from "./favourites.js";
import { drawLegend } from "./legend.js";
import { byId, html, missing, paint, setText } from "../shared/dom.js";

const table = byId("scanner-table");
const tableBody = table.tBodies[0];
const tableBox = table.parentElement;
const rows = new Map(); // by symbol
const DEFAULT_SORT = { column: "score", isDescending: true };
const sort = { ...DEFAULT_SORT };
let known = []; // all columns that could be shown
let columns = []; // those that are
let onView = () => {}; // told when sort or filter change
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
  known = [COIN_COLUMN, ...VALUE_COLUMNS, ...answer.timeframes.flatMap(taColumns)];
  if (answer.timeframes.length && !known.some(({ id }) => id === sort.column)) {
    Object.assign(sort, DEFAULT_SORT);
    onView();
  }
  showColumns(chooseColumns(known));
  for (const coin of coins) showCoin(coin);
  dropRows();
  showFavourites();
  markChosen(chosen);
  showOverflow();
}

/** Marks the row of the coin whose chart is open; null marks none. */
export function markChosen(wanted) {
  chosen = wanted;
  for (const [symbol, row] of rows) {
    const isChosen = symbol === chosen;
    row.classList.toggle("chosen", isChosen);
    row.querySelector(".coin").setAttribute("aria-expanded", isChosen);
  }
}

/** Gives the focus to a coin's button, if the coin is still listed. */
export function focusCoin(symbol) {
  rows.get(symbol)?.querySelector(".coin").focus();
}

/** Calls `choose(symbol)` when a row is clicked, or its button pressed. */
export function onChoice(choose) {
  tableBody.addEventListener("click", (event) => {
    const { symbol } = event.target.closest("tr").dataset;
    if (event.target.matches(".star")) toggleFavourite(symbol);
    else choose(symbol);
  });
}

/** What the table is sorted and filtered by. */
export function tableView() {
  return { ...sort, filter };
}

/** Sorts and filters by what `tableView` returned; an unknown column counts as none. */
export function setTableView({ filter: text, ...order }) {
  Object.assign(sort, order);
  filter = text;
  byId("filter").value = text;
}

/** Calls `callback` whenever order or filter change. */
export function onTableView(callback) {
  onView = callback;
}

/** What is shown, for a file: columns and coins from left to right and from top to bottom. */
export function shownTable() {
  const shown = Array.from(tableBody.rows).filter((row) => !row.hidden);
  const bySymbol = new Map(coins.map((coin) => [coin.symbol, coin]));
  return { columns, coins: shown.map((row) => bySymbol.get(row.dataset.symbol)) };
}

/** Stars, and the order that they give; without the other coins if so chosen. */
export function showFavourites() {
  byId("stars").setAttribute("aria-pressed", areFavouritesAlone());
  for (const [symbol, row] of rows) {
    row.querySelector(".star").setAttribute("aria-pressed", isFavourite(symbol));
  }
  showOrder();
  showFilter();
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
  table.tHead.replaceChildren(drawLegend(columns), html("tr", {}, ...columns.map(drawHeader)));
  tableBody.replaceChildren();
  rows.clear();
  showSortMarks();
}

function drawHeader({ id, label, unit, name, hint }) {
  const button = html("button", { type: "button", title: hint ?? name }, label);
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
  const own = column.reason ? column.reason(coin) : coin.reasons[column.id];
  return own ?? coin.reasons.all ?? "no fresh data in Redis";
}

/** The first click on a column puts the highest on top, or A for names; the next one turns it. */
function sortBy(id) {
  const isDescending = id === sort.column ? !sort.isDescending : id !== COIN_COLUMN.id;
  Object.assign(sort, { column: id, isDescending });
  showSortMarks();
  showOrder();
  onView();
}

function showSortMarks() {
  for (const header of table.tHead.querySelectorAll("[data-column]")) {
    const isSorted = header.dataset.column === sort.column;
    if (!isSorted) header.removeAttribute("aria-sort");
    else header.setAttribute("aria-sort", sort.isDescending ? "descending" : "ascending");
  }
}

/** Favourites first, and both parts by the chosen column. */
function showOrder() {
  const { value } = known.find((column) => column.id === sort.column) ?? COIN_COLUMN;
  const ordered = coins.toSorted(
    (a, b) =>
      isFavourite(b.symbol) - isFavourite(a.symbol) ||
      compare(value(a), value(b)) ||
      a.symbol.localeCompare(b.symbol),
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
    row.hidden = !symbol.includes(wanted) || (areFavouritesAlone() && !isFavourite(symbol));
    shown += row.hidden ? 0 : 1;
  }
  const isFiltered = wanted || areFavouritesAlone();
  const count = isFiltered ? `${shown} of ${rows.size}` : `${rows.size} coins`;
  setText(byId("coin-count"), rows.size ? count : "");
  byId("empty").hidden = shown > 0;
  setText(byId("empty"), rows.size ? whyNoneShown(wanted) : whyEmpty);
}

function whyNoneShown(wanted) {
  const which = areFavouritesAlone() ? "No coin with a star" : "No coin";
  return wanted ? `${which} has “${wanted}” in its name.` : `${which}: ★ shows all coins again.`;
}

/** Marks the sides at which the table goes on, out of view. */
function showOverflow() {
  const { scrollLeft, scrollWidth, clientWidth } = tableBox;
  tableBox.parentElement.classList.toggle("more-left", scrollLeft > 0);
  tableBox.parentElement.classList.toggle("more-right", scrollLeft + clientWidth < scrollWidth - 1);
}

tableBox.addEventListener("scroll", showOverflow, { passive: true });
new ResizeObserver(showOverflow).observe(tableBox);

byId("stars").addEventListener("click", toggleFavouritesAlone);
byId("filter").addEventListener("input", (event) => {
  filter = event.target.value;
  showFilter();
  onView();
});
