// The cards of service, exchange and Redis on the status page: a state in a word or two, and the
// figures and problems behind it. Asks nobody: it is handed parts of an answer of /api/status.

import { badge, byId, html, paint } from "../shared/dom.js";
import { formatAge, formatMoment, formatNumber, parseTime } from "../shared/format.js";
import { clock } from "../shared/server.js";
import { countEntries } from "./log-rows.js";

const SERVICE_LEVELS = { ok: "good", degraded: "warn", starting: "warn", down: "bad" };

/** How the service is; null: not known. */
export function showService(service) {
  showCard("service", service, drawService);
}

/** How the exchange is, as far as the service's health tells. */
export function showExchange(health) {
  showCard("exchange", health && exchangeState(health), drawExchange);
}

/** How Redis is; null: not known. */
export function showRedis(redis) {
  showCard("redis", redis, drawRedis);
}

/** Fills the card `id` by `draw(state)`; without a state it says that nothing is known. */
function showCard(id, state, draw) {
  const content = byId(id).querySelector(".content");
  paint(content, state, () => (state ? draw(state) : badge("unknown", "not known")));
}

function drawService({ error, health }) {
  if (!health) return [badge("bad", "does not answer"), note(error)];
  const { status, version, uptime_s: uptimeS, symbols } = health;
  return [
    badge(SERVICE_LEVELS[status] ?? "unknown", status),
    factList({ Version: version, Uptime: formatAge(uptimeS * 1000), Coins: `${symbols}` }),
    ...listProblems(health).map(note),
  ];
}

function listProblems({ problems, problems_since: since, unknown_symbols: unknown }) {
  const sentences = Object.entries(problems).map(([what, problem]) => {
    const began = parseTime(since?.[what]);
    return `${what}: ${problem}${began ? `, since ${formatMoment(began, clock.now())}` : ""}`;
  });
  if (unknown.length) sentences.push(`not listed by the exchange: ${unknown.join(", ")}`);
  return sentences;
}

/** What the exchange's card shows; changes each second during a hold. */
function exchangeState(health) {
  const { used_weight: used, weight_limit: share, address_weight_limit: limit } = health.exchange;
  const until = parseTime(health.exchange.hold_until);
  const hold =
    until && `Until ${formatMoment(until, clock.now())}, in ${formatAge(until - clock.now())}`;
  return { used, limit: limit ?? share, hold, reach: exchangeReach(health) };
}

/** Level and words for a badge. It may answer while every read of it fails. */
function exchangeReach({ exchange, prices, timeframes, symbols }) {
  const parts = [prices, ...Object.values(timeframes)];
  const failing = parts.map((part) => Object.keys(part.failing).length);
  if (exchange.hold_until) return ["warn", "on hold"];
  if (failing.every((count) => count > 0 && count >= symbols)) return ["bad", "no read succeeds"];
  if (failing.some(Boolean)) return ["warn", "some reads failed"];
  if (parts.every((part) => !part.last_success)) return ["unknown", "not asked yet"];
  return ["good", "reachable"];
}

function drawExchange({ used, limit, hold, reach }) {
  const weight = `${formatNumber(used)} of ${formatNumber(limit)}`;
  const bounds = { min: 0, max: limit, high: limit * 0.8, optimum: 0, value: used };
  return [
    badge(...reach),
    factList({ "Weight used in a minute": weight }),
    html("meter", { ...bounds, "aria-label": "Weight used in a minute" }, weight),
    ...(hold ? [note(hold)] : []),
  ];
}

function drawRedis({ up, error, message_log_length: length }) {
  if (!up) return [badge("bad", "does not answer"), note(error)];
  const state = error ? [badge("warn", "refuses"), note(error)] : [badge("good", "answers")];
  const entries = length === null ? "not known" : countEntries(length);
  return [...state, factList({ "Message log": entries })];
}

function note(text) {
  return html("p", { class: "note" }, text);
}

function factList(facts) {
  const pairs = Object.entries(facts).map(([name, value]) =>
    html("div", {}, html("dt", {}, name), html("dd", {}, value)),
  );
  return html("dl", { class: "facts" }, ...pairs);
}
