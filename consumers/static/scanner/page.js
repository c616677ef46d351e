// The scanner page: a table with a row a coin, and the chart of the coin that was chosen.
// Scores and analysis are computed elsewhere. This file asks for them, hands them to the parts of
// the page, and says how old they are; each part draws itself.

import {
  dimChart,
  expireChart,
  onChartChange,
  openChart,
  refreshChart,
  toggleChart,
} from "../chart/panel.js";
import { noteChart, noteView, onBackOrForward, readAddress } from "./address.js";
import { NO_COINS, blanked, readAnswer } from "./coins.js";
import { columnSetting, onColumns } from "./column-choice.js";
import { saveCsv } from "./csv.js";
import { byId, setText, showBanner } from "../shared/dom.js";
import { onFavourites } from "./favourites.js";
import { notifySignals } from "../shared/notifications.js";
import { Feed, everySecond, listen } from "../shared/server.js";
import { setUpPage } from "../shared/settings.js";
import { describeAges, findProblem, whyNoCoins } from "./freshness.js";
import {
  dimTable,
  focusCoin,
  markChosen,
  onChoice,
  onTableView,
  setTableView,
  showFavourites,
  showTable,
  shownTable,
  tableView,
} from "./table.js";

const EVERY_MS = 30_000; // events say when to ask

const feed = new Feed("/api/scanner", showAnswer, { everyMs: EVERY_MS });
const asked = readAddress();
let latest = NO_COINS; // what is shown
let wanted = asked.chart; // the chart to open once it is known which coins there are; null: none

function showAnswer() {
  latest = feed.body ? readAnswer(feed.body) : blanked(latest);
  showCoins();
  showAges();
  refreshChart(latest);
  if (wanted && latest.coins.length) showChart(wanted);
}

function showCoins() {
  showTable(latest, feed.body ? whyNoCoins(latest) : "");
}

function showAges() {
  const problem = findProblem(feed, latest);
  showBanner(problem);
  dimTable(problem !== null);
  dimChart(feed.failure !== null);
  setText(byId("data-age"), feed.body ? describeAges(latest) : "");
}

/** Ages, and what is taken away because it has become too old. */
function tick() {
  if (!feed.body && latest.coins.length) {
    latest = blanked(latest);
    showCoins();
  }
  expireChart();
  showAges();
}

/** Opens the chart that an address asks for, or closes the one that is open. */
function showChart({ symbol, timeframe }) {
  const isKnown = latest.timeframes.includes(timeframe);
  if (symbol) openChart(symbol, isKnown ? timeframe : undefined);
  else if (opened) toggleChart(opened);
}

let opened = null; // the symbol whose chart is open

/** Marks its row; when it is closed the focus goes back to where it was opened. */
onChartChange(({ symbol, timeframe, hadFocus }) => {
  markChosen(symbol);
  if (hadFocus) focusCoin(opened);
  opened = symbol;
  wanted = null;
  noteChart({ symbol, timeframe });
});
onBackOrForward(showChart);
onTableView(() => noteView(tableView()));
onChoice(toggleChart);
onFavourites(showFavourites);
onColumns(showCoins);
byId("csv").addEventListener("click", () => saveCsv(shownTable()));
setTableView(asked.view);
setUpPage({
  redraw: showAnswer,
  settings: [columnSetting()],
  search: byId("filter"),
  keys: {
    "← →": "in a chart: the candle before, the next one; Page Up and Page Down: ten",
    "Home End": "in a chart: the first candle, the last one",
    "+ −": "in a chart: zoom",
  },
});
feed.start();
everySecond(tick);
listen(
  {
    update: () => feed.askSoon(),
    redis: () => feed.askSoon(),
    state: () => feed.askSoon(),
    log: notifySignals,
  },
  () => feed.askSoon(),
);
