// Which closed trades are shown: the three filters and the page. All of it is in the page's address,
// so that it can be linked to, reloaded, and gone back to.

import { byId, html, paint } from "../shared/dom.js";

const FILTERS = ["symbol", "timeframe", "signal"];
const selects = Object.fromEntries(FILTERS.map((name) => [name, byId(`filter-${name}`)]));
let onChange = () => {};

/** The parameters of /api/trades that the address asks for. */
export function wanted() {
  const given = new URLSearchParams(location.search);
  const names = [...FILTERS, "before"].filter((name) => given.get(name));
  return new URLSearchParams(names.map((name) => [name, given.get(name)]));
}

/** Calls `callback()` when other trades are wanted. */
export function onFilter(callback) {
  onChange = callback;
}

/** The address of this page with `changes` to its filters; its first page. */
export function filterLink(changes) {
  const query = new URLSearchParams({ ...filters(), ...changes });
  return `/trades?${query}`;
}

/** Goes to the trades older than the one with that id; to the newest with "". */
export function goToPage(before) {
  go({ ...filters(), ...(before && { before }) });
}

/** Brings the controls in line with the address; `choices` are the values that there are. */
export function showFilters(choices) {
  for (const [name, select] of Object.entries(selects)) {
    const chosen = filters()[name] ?? "";
    const values = new Set(["", ...(choices?.[name] ?? []), chosen]);
    paint(select, [...values], () => [...values].map(drawOption));
    select.value = chosen;
  }
  byId("filter-reset").disabled = !Object.keys(filters()).length;
  byId("csv").href = `/api/trades.csv?${new URLSearchParams(filters())}`;
}

function filters() {
  const given = wanted();
  given.delete("before");
  return Object.fromEntries(given);
}

function drawOption(value) {
  return html("option", { value }, value || "all");
}

function go(parameters) {
  const query = new URLSearchParams(parameters).toString();
  history.pushState(null, "", query ? `/trades?${query}` : "/trades");
  onChange();
}

for (const [name, select] of Object.entries(selects)) {
  select.addEventListener("change", () => {
    const { [name]: _, ...others } = filters();
    go(select.value ? { ...others, [name]: select.value } : others);
  });
}
byId("filter-reset").addEventListener("click", () => {
  selects.symbol.focus(); // the button is disabled now, and would lose the focus
  go({});
});
addEventListener("popstate", () => onChange());
