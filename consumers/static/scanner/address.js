// What the page's URL says: /?coin=BTCUSDT&tf=1h&sort=-rsi&q=bt. So a reload, a bookmark and the
// browser's back button find what was shown. A value that cannot be is ignored.

const COIN = /^[A-Z0-9]{2,20}$/;
const TIMEFRAME = /^[0-9]{1,3}[mhdwM]$/;
const SORT = /^(-?)([a-z0-9-]{1,40})$/i;
const MAX_FILTER = 40;
const DEFAULT_SORT = "-score"; // not worth saying

let { chart, view } = readAddress();
let isGoingBack = false;

/** What the URL asks for: a chart, or null as its symbol; order and filter of the table. */
export function readAddress() {
  const query = new URLSearchParams(location.search);
  const valid = (name, pattern) => pattern.exec(query.get(name) ?? "");
  const sort = valid("sort", SORT) ?? SORT.exec(DEFAULT_SORT);
  return {
    chart: {
      symbol: valid("coin", COIN)?.[0] ?? null,
      timeframe: valid("tf", TIMEFRAME)?.[0] ?? null,
    },
    view: {
      column: sort[2],
      isDescending: sort[1] === "-",
      filter: (query.get("q") ?? "").slice(0, MAX_FILTER),
    },
  };
}

/** Writes order and filter of the table into the URL. */
export function noteView(newView) {
  view = newView;
  write();
}

/** Writes the chart into the URL: an open one is an entry of the history, so back closes it. */
export function noteChart(newChart) {
  chart = newChart;
  write();
}

/** Calls `callback(chart)` when back or forward lead to an entry with another chart, or none. */
export function onBackOrForward(callback) {
  window.addEventListener("popstate", () => {
    const ofUrl = readAddress().chart;
    if (!isGoingBack && ofUrl.symbol !== chart.symbol) callback(ofUrl);
    isGoingBack = false;
    write(); // order and filter of that entry may be old
  });
}

function write() {
  if (isGoingBack) return; // when it has arrived there, it writes
  const wasOpenedHere = Boolean(history.state?.openedChart);
  if (!chart.symbol && wasOpenedHere) {
    isGoingBack = true;
    history.back();
    return;
  }
  const isNew = chart.symbol && !readAddress().chart.symbol;
  if (isNew) history.pushState({ openedChart: true }, "", url());
  else history.replaceState(history.state, "", url());
}

function url() {
  const sort = `${view.isDescending ? "-" : ""}${view.column}`;
  const parts = {
    coin: chart.symbol,
    tf: chart.symbol && chart.timeframe,
    sort: sort === DEFAULT_SORT ? null : sort,
    q: view.filter.trim(),
  };
  const query = new URLSearchParams(Object.entries(parts).filter(([, value]) => value));
  return query.size ? `${location.pathname}?${query}` : location.pathname;
}
