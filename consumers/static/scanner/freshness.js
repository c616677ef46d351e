// How old what the scanner page shows is, in words, and what makes it stale. Only reads what it is
// handed; the words are shown by the page.

import { formatAge, sentence } from "../shared/format.js";
import { clock, describeFailure, describeTrouble } from "../shared/server.js";

const SAME_AGE_MS = 5_000; // prices this near to each other are said to be of one age

/** "Prices 3 s old · scores 10 s old". */
export function describeAges({ coins }) {
  const pricedAt = timesOf(coins, "pricedAt");
  const scoredAt = timesOf(coins, "scoredAt");
  const isPartial = pricedAt.length < coins.length;
  const partly = isPartial ? ` (${pricedAt.length} of ${coins.length})` : "";
  const prices = pricedAt.length
    ? `Prices ${describeAgeRange(pricedAt)} old${partly}`
    : "No fresh prices";
  const scores = scoredAt.length ? `scores ${describeAgeRange(scoredAt)} old` : "no fresh scores";
  return `${prices} · ${scores}`;
}

/** When what the coins show of a kind was made, ms UTC; without those that have none. */
function timesOf(coins, key) {
  return coins.map((coin) => coin[key]).filter(Boolean);
}

function describeAgeRange(times) {
  const newest = Math.max(...times);
  const oldest = Math.min(...times);
  const age = formatAge(clock.now() - newest);
  if (newest - oldest < SAME_AGE_MS) return age;
  return `${age} to ${formatAge(clock.now() - oldest)}`;
}

/**
 * The worst of what makes the table stale, for the banner; null if nothing does.
 * @param {Feed} feed of /api/scanner
 * @param {Object} answer its newest body, as coins.js makes it
 */
export function findProblem(feed, { redis, trouble, updates, coins }) {
  if (feed.failure) return describeLoss(feed);
  if (!feed.body) return null;
  const last = describeLastRefresh(updates);
  if (!redis.up) {
    return { text: "Redis does not answer.", detail: `${sentence(redis.error)} ${last}` };
  }
  if (!timesOf(coins, "pricedAt").length) {
    return { text: "No fresh prices.", detail: `${describeReason(trouble)} ${last}` };
  }
  if (!timesOf(coins, "scoredAt").length) {
    // Scores are of the 1h candles: without these the scanner has nothing to compute.
    const start = "Is the scanner running? The dashboard runs it, or: python -m consumers.scanner";
    return { text: "No fresh scores.", detail: trouble ? describeReason(trouble) : start };
  }
  return null;
}

/** Why there is no coin at all, for the place of the table. */
export function whyNoCoins({ trouble }) {
  return `No coins in Redis yet. ${describeReason(trouble)}`;
}

function describeReason(trouble) {
  if (!trouble) return "The service has no trouble: it may have just begun.";
  const { text, detail } = describeTrouble(trouble);
  return `${text} ${detail}`;
}

function describeLoss({ failure, body }) {
  const { text, detail } = describeFailure(failure);
  const rest = body ? "What is shown is from before." : "There is nothing to show.";
  return { text, detail: `${detail} ${rest}` };
}

function describeLastRefresh(updates) {
  const times = Object.values(updates).map((update) => update.timestamp);
  if (!times.length) return "No good refresh was heard of yet.";
  return `The last good refresh was ${formatAge(clock.now() - Math.max(...times))} ago.`;
}
