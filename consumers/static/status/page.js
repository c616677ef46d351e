// The status page: how service, exchange, Redis and consumers are, and the message log as it grows.
// Asks for the state and hands each part of the page what it shows; each part draws itself.

import { MessageLog, showMinutes } from "./activity.js";
import { showExchange, showRedis, showService } from "./cards.js";
import { byId, setText, showBanner } from "../shared/dom.js";
import { formatAsOf, sentence } from "../shared/format.js";
import { notifySignals } from "../shared/notifications.js";
import {
  Feed,
  describeFailure,
  describeTrouble,
  everySecond,
  listen,
} from "../shared/server.js";
import { setUpPage } from "../shared/settings.js";
import { showConsumers } from "./consumers.js";
import { showTimeframes } from "./timeframes.js";

const feed = new Feed("/api/status", showAnswer);
const messageLog = new MessageLog();

function showAnswer() {
  const answer = feed.body;
  showService(answer?.service);
  showRedis(answer?.redis);
  showMinutes(answer?.messages_per_minute ?? []);
  messageLog.showExtents(answer?.redis.log);
  showWhatTicks();
  if (messageLog.hasFailed && answer?.redis.up) messageLog.catchUp();
}

/** Ages, and what turns to "not known" when the newest answer becomes too old. */
function showWhatTicks() {
  const answer = feed.body;
  showBanner(findProblem());
  document.body.classList.toggle("stale", feed.failure !== null);
  setText(byId("data-age"), answer ? formatAsOf(answer.timestamp) : "");
  showExchange(answer?.service.health);
  showTimeframes(answer);
  showConsumers(answer?.consumers, answer?.redis.up);
}

function findProblem() {
  if (feed.failure) return describeFailure(feed.failure);
  if (!feed.body) return null;
  const { redis, trouble } = feed.body;
  if (!redis.up) return { text: "Redis does not answer.", detail: sentence(redis.error) };
  return trouble && describeTrouble(trouble);
}

function tick() {
  if (feed.body) showWhatTicks();
  else showAnswer();
}

function redraw() {
  showAnswer();
  messageLog.catchUp();
}

setUpPage({ redraw });
feed.start();
everySecond(tick);
listen(
  {
    log: (entries) => {
      messageLog.add(entries);
      notifySignals(entries);
    },
    redis: () => feed.askSoon(),
    state: () => feed.askSoon(),
  },
  () => {
    feed.askSoon();
    messageLog.catchUp();
  },
);
