// The trades page: what the paper trader holds, what it closed, and what that amounted to. Asks for
// the positions and hands them to their part of the page; each part draws itself.

import { byId, setText, showBanner } from "../shared/dom.js";
import { formatAsOf } from "../shared/format.js";
import { notifySignals } from "../shared/notifications.js";
import {
  Feed,
  describeFailure,
  describeTrouble,
  everySecond,
  listen,
} from "../shared/server.js";
import { setUpPage } from "../shared/settings.js";
import { redrawTrades, refreshTrades } from "./closed.js";
import { showPositions } from "./positions.js";

const NO_REDIS = /^Redis: /; // how the dashboard begins an error that is not its own

const feed = new Feed("/api/positions", showAnswer);
let known = null; // the last answer

function showAnswer() {
  known = feed.body ?? known;
  showWhatTicks();
  refreshTrades(); // whatever changes positions may have closed a trade
}

/** Ages, and prices that are taken away because they have become too old. */
function showWhatTicks() {
  showPositions(known, feed.body ? "" : "the dashboard does not answer");
  showBanner(findProblem());
  document.body.classList.toggle("stale", feed.failure !== null);
  setText(byId("data-age"), feed.body ? formatAsOf(feed.body.timestamp) : "");
}

function findProblem() {
  if (!feed.failure) {
    const { error, trouble } = feed.body ?? {};
    if (error) return { text: "The book of the paper trader cannot be read.", detail: error };
    return trouble ? describeTrouble(trouble) : null;
  }
  const { text, detail } = describeFailure(feed.failure);
  if (!NO_REDIS.test(text)) return { text, detail };
  return { text: "Redis does not answer.", detail: `${text.replace(NO_REDIS, "")} ${detail}` };
}

function redraw() {
  showWhatTicks();
  redrawTrades();
}

setUpPage({ redraw });
feed.start();
everySecond(showWhatTicks);
listen(
  {
    update: () => feed.askSoon(),
    log: (entries) => {
      if (entries.some(({ type }) => type === "trade")) feed.askSoon();
      notifySignals(entries);
    },
    redis: () => feed.askSoon(),
    state: () => feed.askSoon(),
  },
  () => feed.askSoon(),
);
