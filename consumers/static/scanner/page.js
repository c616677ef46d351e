// The scanner page: a table with a row a coin, and the chart of the coin that was chosen.
// Scores and analysis are computed elsewhere. This file asks for them, hands them to the parts of
// the page, and says how old they are; each part draws itself.

import {
  dimChart,
  expireChart,
  onChartChange,
  refreshChart,
  toggleChart,
} from "../chart/panel.js";
import { NO_COINS, blanked, readAnswer } from "./coins.js";
import { byId, setText, showBanner } from "../shared/dom.js";
import { Feed, everySecond, listen } from "../shared/server.js";
import { describeAges, findProblem } from "./freshness.js";
import { dimTable, focusCoin, markChosen, onChoice, showTable } from "./table.js";

const EVERY_MS = 30_000; // events say when to ask

const feed = new Feed("/api/scanner", showAnswer, { everyMs: EVERY_MS });
let latest = NO_COINS; // what is shown

function showAnswer() {
  latest = feed.body ? readAnswer(feed.body) : blanked(latest);
  showCoins();
  showAges();
  refreshChart(latest);
}

function showCoins() {
  showTable(latest, feed.body ? "No coins in Redis yet. Is the service running?" : "");
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

let charted = null; // the coin whose chart is open

/** Marks its row; when it is closed the focus goes back to where it was opened. */
function followChart({ symbol, hadFocus }) {
  markChosen(symbol);
  if (hadFocus) focusCoin(charted);
  charted = symbol;
}

onChoice(toggleChart);
onChartChange(followChart);
feed.start();
everySecond(tick);
listen(
  {
    update: () => feed.askSoon(),
    redis: () => feed.askSoon(),
    state: () => feed.askSoon(),
  },
  () => feed.askSoon(),
);
