// The status page: how service, exchange, Redis and consumers are, and the message log as it grows.

import { minuteBars } from "./charts.js";
import {
  Feed,
  ServerError,
  badge,
  clock,
  describeFailure,
  everySecond,
  fetchJson,
  formatAge,
  formatNumber,
  formatTime,
  html,
  listen,
  missing,
  paint,
  setText,
  showBanner,
  splitSymbol,
} from "./common.js";

const feed = new Feed("/api/status", showAnswer);

const byId = (id) => document.getElementById(id);

// ---- cards --------------------------------------------------------------------------------------

const SERVICE_LEVELS = { ok: "good", degraded: "warn", starting: "warn", down: "bad" };

/** Fills the card `id` by `draw(state)`; a state of null says that nothing is known. */
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

function listProblems({ problems, unknown_symbols: unknown }) {
  const sentences = Object.entries(problems).map(([what, problem]) => `${what}: ${problem}`);
  if (unknown.length) sentences.push(`not listed by the exchange: ${unknown.join(", ")}`);
  return sentences;
}

/** What the exchange's card shows; changes each second during a hold. */
function exchangeState(health) {
  const { used_weight: used, weight_limit: limit, hold_until: until } = health.exchange;
  const holdMs = until ? Date.parse(until) - clock.now() : 0;
  const hold = until && `Until ${formatTime(Date.parse(until))} UTC, in ${formatAge(holdMs)}`;
  return { used, limit, hold, reach: exchangeReach(health) };
}

/** Level and words for a badge. The exchange counts as out of reach when every read of it fails. */
function exchangeReach({ exchange, prices, timeframes, symbols }) {
  const parts = [prices, ...Object.values(timeframes)];
  const failing = parts.map((part) => Object.keys(part.failing).length);
  if (exchange.hold_until) return ["warn", "on hold"];
  if (failing.every((count) => count > 0 && count >= symbols)) return ["bad", "not reachable"];
  if (failing.some(Boolean)) return ["warn", "answers in part"];
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
  const entries = length === null ? "not known" : `${formatNumber(length)} entries`;
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

// ---- timeframes ---------------------------------------------------------------------------------

const NAMED_IN_A_GROUP = 3; // of the coins that fail for one reason; the others unfold
const timeframeRows = new Map(); // by name

/** One row for the prices and for each timeframe, from the service or from what Redis heard. */
function showTimeframes(answer) {
  const health = answer?.service.health;
  const parts = health ? partsOfHealth(health) : partsOfUpdates(answer?.updates ?? {});
  for (const [name, row] of timeframeRows) {
    if (parts.some((part) => part.name === name)) continue;
    row.remove();
    timeframeRows.delete(name);
  }
  for (const part of parts) showPart(part);
  byId("timeframes-note").hidden = !answer || Boolean(health);
}

function partsOfHealth({ prices, timeframes, symbols }) {
  const parts = Object.entries({ prices, ...timeframes });
  return parts.map(([name, { last_success: success, fresh, candles, failing }]) => ({
    name,
    at: success ? Date.parse(success) : null,
    fresh: `${fresh} of ${symbols}`,
    candles: candles ?? null,
    failing: groupByReason(failing),
  }));
}

function partsOfUpdates(updates) {
  return Object.entries(updates).map(([name, { timestamp, symbols, failed }]) => ({
    name,
    at: timestamp,
    fresh: `${symbols} updated`,
    candles: null,
    failing: failed ? [[`${failed} coins`, []]] : [],
  }));
}

/** {"BTCUSDT": "HTTP 503", …} -> [["HTTP 503", ["BTC", …]], …] */
function groupByReason(failing) {
  const groups = new Map();
  for (const [symbol, reason] of Object.entries(failing)) {
    groups.set(reason, [...(groups.get(reason) ?? []), splitSymbol(symbol)[0]]);
  }
  return [...groups];
}

function showPart({ name, at, fresh, candles, failing }) {
  const [, success, age, freshCell, candlesCell, failingCell] = (
    timeframeRows.get(name) ?? addPart(name)
  ).cells;
  paint(success, at, () => (at ? `${formatTime(at)} UTC` : "never"));
  setText(age, at ? formatAge(clock.now() - at) : "");
  setText(freshCell, fresh);
  paint(candlesCell, candles, () => drawCandleCount(candles, name));
  paint(failingCell, failing, () => (failing.length ? failing.map(drawGroup) : "none"));
}

function addPart(name) {
  const labels = ["Last success", "Age", "Fresh", "Candles", "Failing"];
  const cells = labels.map((label) => {
    const isNumber = ["Age", "Fresh", "Candles"].includes(label);
    return html("td", { "data-label": label, class: isNumber ? "number" : null });
  });
  const row = html("tr", { "data-part": name }, html("th", { scope: "row" }, name), ...cells);
  timeframeRows.set(name, row);
  byId("timeframes").tBodies[0].append(row);
  return row;
}

function drawCandleCount(candles, name) {
  if (candles !== null) return formatNumber(candles);
  return missing(name === "prices" ? "prices have no candles" : "only the service knows");
}

function drawGroup([reason, coins]) {
  const names = coins.join(", ");
  if (!names) return html("div", {}, reason);
  if (coins.length <= NAMED_IN_A_GROUP) return html("div", {}, `${names}: ${reason}`);
  const summary = html("summary", {}, `${coins.length} coins: ${reason}`);
  return html("details", {}, summary, names);
}

// ---- consumers ----------------------------------------------------------------------------------

const MODULES = {
  scanner: "consumers.scanner",
  "ta-service": "consumers.ta_service",
  "trader-bot": "consumers.paper_trader",
  dashboard: "consumers.dashboard",
};

/** Consumers report to Redis: while it does not answer, nobody knows whether they are alive. */
function showConsumers(consumers, isRedisUp) {
  const list = byId("consumers");
  const names = Object.keys(consumers ?? MODULES);
  paint(list, names, () => names.map(drawConsumer));
  for (const item of list.children) {
    const { consumer } = item.dataset;
    const [state, seen, start] = item.querySelectorAll(".state, .seen, .start");
    const heartbeat = consumers?.[consumer];
    const [level, words] = isRedisUp ? consumerState(heartbeat) : ["unknown", "not known"];
    paint(state, words, () => badge(level, words));
    setText(seen, heartbeat ? describeHeartbeat(heartbeat) : "");
    start.hidden = !isRedisUp || !MODULES[consumer] || Boolean(heartbeat?.alive);
  }
}

function drawConsumer(consumer) {
  const start = html("code", { class: "start", hidden: true }, `python -m ${MODULES[consumer]}`);
  return html(
    "li",
    { "data-consumer": consumer },
    html("b", {}, consumer),
    html("span", { class: "state" }),
    html("span", { class: "seen" }),
    start,
  );
}

function consumerState(heartbeat) {
  if (!heartbeat) return ["unknown", "never seen"];
  return heartbeat.alive ? ["good", "alive"] : ["bad", "silent"];
}

function describeHeartbeat({ timestamp, pid }) {
  return `seen ${formatAge(clock.now() - timestamp)} ago, pid ${pid}`;
}

// ---- messages a minute --------------------------------------------------------------------------

function showMinutes(counts) {
  const figure = byId("messages-chart");
  paint(figure.firstElementChild, counts, () => (counts.length ? minuteBars(counts) : ""));
  setText(figure.lastElementChild, describeMinutes(counts));
}

function describeMinutes(counts) {
  if (!counts.length) return "No messages counted.";
  const [, running] = counts.at(-1);
  const whole = counts.slice(0, -1).map(([, count]) => count);
  const now = `Messages a minute: ${formatNumber(running)} in this one so far`;
  if (!whole.length) return now;
  const mean = whole.reduce((sum, count) => sum + count, 0) / whole.length;
  const most = formatNumber(Math.max(...whole));
  return `${now}; ${formatNumber(mean)} on average, ${most} at most in ${whole.length} min before`;
}

// ---- message log --------------------------------------------------------------------------------

const FETCHED_ENTRIES = 100;
const MAX_ROWS = 300;
const MAX_TEXT = 500; // of a field; more is cut off
const LOG_COLUMNS = ["timestamp", "type", "source", "channel", "payload_size", "summary"];

/** The rows of the message log, newest on top: read once, then grown by events unless paused. */
class MessageLog {
  #rows = byId("log-table").tBodies[0];
  #ids = new Set(); // of the rows, since what is read and what events bring may overlap
  #arrived = []; // what events brought while reading
  #isReading = false;
  #isPaused = false;
  #missed = 0; // entries that came while paused
  #reading = new AbortController();

  /** Whether the last read failed, so that it is worth another. */
  hasFailed = false;

  constructor() {
    byId("log-type").addEventListener("change", () => this.read());
    byId("log-source").addEventListener("change", () => this.read());
    byId("log-pause").addEventListener("click", () => this.#togglePause());
  }

  /** Fills the table with the newest entries that pass the filters. */
  async read() {
    this.#reading.abort();
    this.#reading = new AbortController();
    this.#isReading = true;
    this.#arrived = [];
    try {
      const answer = await fetchJson(this.#path(), this.#reading.signal);
      this.#replace(answer.entries);
      this.#finishReading(answer.entries.length ? "" : "No entries.");
    } catch (error) {
      if (error.name === "AbortError") return; // other filters are wanted by now
      if (!(error instanceof ServerError)) throw error;
      this.#finishReading(`${error.message}.`);
      this.hasFailed = true;
    }
  }

  /** Reads again after a gap in the events, but leaves alone what is being read on screen. */
  catchUp() {
    if (!this.#isPaused) this.read();
  }

  /** @param {Object[]} entries oldest first, of any type and source */
  add(entries) {
    const wanted = entries.filter((entry) => this.#isNew(entry) && this.#isWanted(entry));
    if (this.#isReading) this.#arrived.push(...wanted);
    else if (this.#isPaused) this.#miss(wanted.length);
    else this.#prepend(wanted);
  }

  #path() {
    const query = new URLSearchParams({ limit: FETCHED_ENTRIES });
    for (const field of ["type", "source"]) {
      const wanted = byId(`log-${field}`).value;
      if (wanted) query.set(field, wanted);
    }
    return `/api/redis/log?${query}`;
  }

  #isWanted(entry) {
    return ["type", "source"].every((field) => {
      const wanted = byId(`log-${field}`).value;
      return !wanted || entry[field] === wanted;
    });
  }

  #isNew({ id }) {
    return id === undefined || !this.#ids.has(id);
  }

  #finishReading(problem) {
    this.#isReading = false;
    this.hasFailed = false;
    setText(byId("log-note"), problem);
    byId("log-note").hidden = !problem;
    this.#missed = 0;
    this.#showPause();
    this.add(this.#arrived);
  }

  #replace(entries) {
    this.#rows.replaceChildren(...entries.map(drawEntry));
    this.#ids = new Set(entries.map((entry) => entry.id));
  }

  #prepend(entries) {
    if (!entries.length) return;
    for (const { id } of entries) this.#ids.add(id);
    const rows = entries.slice(-MAX_ROWS).reverse().map(drawEntry);
    for (const row of rows) row.classList.add("new");
    this.#rows.prepend(...rows);
    while (this.#rows.rows.length > MAX_ROWS) this.#forget(this.#rows.lastElementChild);
    byId("log-note").hidden = true;
  }

  #forget(row) {
    this.#ids.delete(row.dataset.id);
    row.remove();
  }

  #miss(count) {
    this.#missed += count;
    this.#showPause();
  }

  #togglePause() {
    this.#isPaused = !this.#isPaused;
    if (this.#isPaused) this.#showPause();
    else this.read();
  }

  #showPause() {
    const resume = this.#missed ? `Resume (${formatNumber(this.#missed)} new)` : "Resume";
    setText(byId("log-pause"), this.#isPaused ? resume : "Pause");
  }
}

/** A row of an entry, any of whose fields may be missing or be hostile text. */
function drawEntry(entry) {
  const cells = LOG_COLUMNS.map((column) => {
    const text = String(entry[column] ?? "").slice(0, MAX_TEXT);
    const shown = LOG_FORMATS[column]?.(text) ?? text;
    const attributes = { "data-column": column, title: shown === text ? null : text };
    const isThere = entry[column] !== undefined;
    return html("td", attributes, ...(isThere ? [shown] : missing("missing in the entry")));
  });
  return html("tr", { "data-id": entry.id, "data-type": entry.type }, ...cells);
}

const LOG_FORMATS = {
  timestamp: (text) => text.match(/T(\d\d:\d\d:\d\d\.\d{3})Z$/)?.[1],
  payload_size: (text) => (/^\d{1,12}$/.test(text) ? formatNumber(Number(text)) : null),
};

const messageLog = new MessageLog();

// ---- all of it ----------------------------------------------------------------------------------

function showAnswer() {
  const answer = feed.body;
  showCard("service", answer?.service, drawService);
  showCard("redis", answer?.redis, drawRedis);
  showMinutes(answer?.messages_per_minute ?? []);
  const length = answer?.redis.message_log_length;
  setText(byId("log-length"), length ? `${formatNumber(length)} entries` : "");
  showWhatTicks();
  if (messageLog.hasFailed && answer?.redis.up) messageLog.catchUp();
}

/** Ages, and what turns to "not known" when the newest answer becomes too old. */
function showWhatTicks() {
  const answer = feed.body;
  const health = answer?.service.health;
  showBanner(findProblem());
  document.body.classList.toggle("stale", feed.failure !== null);
  setText(byId("data-age"), answer ? `As of ${formatTime(answer.timestamp)} UTC` : "");
  showCard("exchange", health && exchangeState(health), drawExchange);
  showTimeframes(answer);
  showConsumers(answer?.consumers, answer?.redis.up);
}

function findProblem() {
  if (feed.failure) return describeFailure(feed.failure);
  const redis = feed.body?.redis;
  return redis && !redis.up ? { text: "Redis does not answer.", detail: redis.error } : null;
}

function tick() {
  if (feed.body) showWhatTicks();
  else showAnswer();
}

feed.start();
everySecond(tick);
listen(
  {
    log: (entries) => messageLog.add(entries),
    redis: () => feed.askSoon(),
  },
  () => {
    feed.askSoon();
    messageLog.catchUp();
  },
);
messageLog.read();
