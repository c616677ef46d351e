// What both pages need: the newest answer of the server, its clock, its events, numbers and ages as
// text, and elements. Knows nothing of coins, charts or log entries.
//
// Whatever the server sends is text: elements are made by `html` and `svg`, never parsed.

const POLL_INTERVAL_MS = 5_000;
const REQUEST_TIMEOUT_MS = 8_000;
const RETRY_EVENTS_MS = 5_000;
const DEBOUNCE_MS = 300; // a refresh publishes several updates within a moment
const SECOND_MS = 1_000;
const BLANK_AFTER_MS = 60_000; // an older answer is not shown: no price lives longer in Redis

export const MINUTE_MS = 60_000;
export const HOUR_MS = 60 * MINUTE_MS;
export const DAY_MS = 24 * HOUR_MS;

// ---- the server ---------------------------------------------------------------------------------

/** The server did not answer (`status` 0), or answered with an error; the message is for people. */
export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * The JSON body behind `path`.
 * @param {AbortSignal} [signal] gives the request up
 * @throws {ServerError} unless the answer is a 200 with JSON
 * @throws {DOMException} AbortError, if `signal` gave it up
 */
export async function fetchJson(path, signal) {
  const deadline = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
  const end = signal ? AbortSignal.any([signal, deadline]) : deadline;
  let response;
  let body;
  try {
    response = await fetch(path, { signal: end });
    body = await response.json();
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof SyntaxError) throw new ServerError(response.status, "No JSON came");
    throw new ServerError(0, "The dashboard does not answer");
  }
  if (!response.ok) throw new ServerError(response.status, body.error ?? `HTTP ${response.status}`);
  return body;
}

/** The server's clock, so that a browser whose clock is wrong still shows right ages. */
export const clock = {
  offsetMs: 0,

  /**
   * Learns from an answer. Counts from when it was asked for, so ages come out too long rather
   * than too short on a slow line.
   */
  set(serverMs, askedAtMs) {
    this.offsetMs = serverMs - askedAtMs;
  },

  /** ms UTC. Follows `Date`, which goes on while a laptop sleeps. */
  now() {
    return Date.now() + this.offsetMs;
  },
};

/**
 * The newest answer behind a path whose body has a `timestamp`. Asks at once, every 5 s, when told
 * to, and when the page comes into view again; calls `onChange` after each answer or failure.
 */
export class Feed {
  #path;
  #onChange;
  #body = null;
  #asking = false;
  #askAgain = false;
  #timer = 0;

  /** Why the last request failed and when the last answer was, ms UTC; null while all is well. */
  failure = null;

  constructor(path, onChange) {
    this.#path = path;
    this.#onChange = onChange;
  }

  /** The newest body, or null if there is none that may still be shown. */
  get body() {
    const isOld = this.#body && clock.now() - this.#body.timestamp > BLANK_AFTER_MS;
    return isOld ? null : this.#body;
  }

  start() {
    setInterval(() => this.#ask(), POLL_INTERVAL_MS);
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#ask();
    });
    this.#ask();
  }

  /** Asks in a moment, once for all calls until then. */
  askSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), DEBOUNCE_MS);
  }

  /** One request at a time; who asks during one gets another after it. */
  async #ask() {
    this.#askAgain = true;
    if (this.#asking) return;
    this.#asking = true;
    try {
      while (this.#askAgain) {
        this.#askAgain = false;
        await this.#askOnce();
        this.#onChange();
      }
    } finally {
      this.#asking = false;
    }
  }

  async #askOnce() {
    const askedAt = Date.now();
    try {
      this.#body = await fetchJson(this.#path);
      clock.set(this.#body.timestamp, askedAt);
      this.failure = null;
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      const since = this.#body?.timestamp ?? this.failure?.since ?? clock.now();
      this.failure = { text: error.message, since };
    }
  }
}

/**
 * Listens to the server's events for as long as the page lives.
 * @param {Object<string, function(*)>} handlers by event name; each is handed the event's data
 * @param {function()} onOpen after each (re)connection: what happened before it was missed
 */
export function listen(handlers, onOpen) {
  const source = new EventSource("/api/events");
  source.addEventListener("open", onOpen);
  for (const [name, handle] of Object.entries(handlers)) {
    source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
  }
  source.addEventListener("error", () => {
    // The browser reconnects by itself, except after an HTTP error.
    if (source.readyState === EventSource.CLOSED) {
      setTimeout(() => listen(handlers, onOpen), RETRY_EVENTS_MS);
    }
  });
}

/** Calls `tick` now, each second, and when the page comes into view again. */
export function everySecond(tick) {
  setInterval(tick, SECOND_MS);
  document.addEventListener("visibilitychange", tick);
  tick();
}

// ---- numbers, ages and times as text ------------------------------------------------------------

const MISSING = "–";
const SIGNIFICANT_DIGITS = 5;
const MAX_DECIMALS = 8; // the finest price step of the exchange
const TIMEFRAME_UNIT_MS = { m: MINUTE_MS, h: HOUR_MS, d: DAY_MS };
const numberFormats = new Map();

/** 1234.5 -> "1,234.50", with a true minus sign; what rounds to zero has no sign. */
export function formatNumber(value, decimals = 0) {
  return format(value, decimals, "negative");
}

/** As `formatNumber`, with a plus before what is above zero. */
export function formatSigned(value, decimals) {
  return format(value, decimals, "exceptZero");
}

function format(value, decimals, signDisplay) {
  const key = `${signDisplay}${decimals}`;
  if (!numberFormats.has(key)) {
    const digits = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
    numberFormats.set(key, new Intl.NumberFormat("en-US", { signDisplay, ...digits }));
  }
  return numberFormats.get(key).format(value).replace("-", "−");
}

/** At least five significant digits and two decimals: 52,530.04 and 0.51230 and 0.00001234. */
export function formatPrice(price) {
  const exponent = price > 0 ? Math.floor(Math.log10(price)) : 0;
  const decimals = SIGNIFICANT_DIGITS - 1 - exponent;
  return formatNumber(price, Math.min(Math.max(decimals, 2), MAX_DECIMALS));
}

/** 12,345 -> "12.3K": for volumes, which need no more. */
export function formatCompact(value) {
  const digits = { notation: "compact", maximumSignificantDigits: 4 };
  return new Intl.NumberFormat("en-US", digits).format(value);
}

export function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/** A duration in ms: "12 s", "90 min", "5 h", "3 d". Below zero counts as zero. */
export function formatAge(durationMs) {
  if (durationMs < MINUTE_MS) return `${Math.max(0, Math.floor(durationMs / SECOND_MS))} s`;
  if (durationMs < 2 * HOUR_MS) return `${Math.floor(durationMs / MINUTE_MS)} min`;
  if (durationMs < 2 * DAY_MS) return `${Math.floor(durationMs / HOUR_MS)} h`;
  return `${Math.floor(durationMs / DAY_MS)} d`;
}

/** ISO 8601 -> ms UTC; null if there is none, or no date. */
export function parseTime(text) {
  const ms = Date.parse(text ?? "");
  return Number.isNaN(ms) ? null : ms;
}

/** ms UTC -> "03:07:30". */
export function formatTime(ms) {
  return new Date(ms).toISOString().slice(11, 19);
}

/** ms UTC -> "24 Nov". */
export function formatDay(ms) {
  const options = { day: "numeric", month: "short", timeZone: "UTC" };
  return new Date(ms).toLocaleDateString("en-GB", options);
}

/** The length in ms of a timeframe like "5m", "1h" or "1d". */
export function timeframeMs(name) {
  return parseInt(name, 10) * TIMEFRAME_UNIT_MS[name.at(-1)];
}

/** "BTCUSDT" -> ["BTC", "USDT"]; the second is empty if the quote currency is not a known one. */
export function splitSymbol(symbol) {
  const [, base, quote] = symbol.match(/^(.+?)(USDT|USDC|USD|BTC|)$/);
  return [base, quote];
}

// ---- elements -----------------------------------------------------------------------------------

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/**
 * A new HTML element. Attributes that are null, undefined or false are left out, `true` is set
 * without a value; children are nodes or text.
 */
export function html(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** A new SVG element, likewise. */
export function svg(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);
}

function furnish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Text for screen readers only. */
export function hiddenText(text) {
  return html("span", { class: "visually-hidden" }, text);
}

/** A value that is not there, and why. */
export function missing(reason) {
  const dash = html("span", { class: "missing", title: reason, "aria-hidden": "true" }, MISSING);
  return [dash, hiddenText(reason)];
}

/** Sets text only where it differs, so as not to disturb a selection or a screen reader. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const painted = new WeakMap();

/**
 * Fills an element with `draw(content)`, nodes or text, unless it already shows the same content.
 * @param {*} content anything that JSON can hold
 */
export function paint(element, content, draw) {
  const key = JSON.stringify(content);
  if (painted.has(element) && painted.get(element) === key) return;
  painted.set(element, key);
  element.replaceChildren(...[draw(content)].flat());
}

const BADGE_SIGNS = { good: "●", warn: "▲", bad: "■", unknown: "○" };

/** A state in one or two words, told apart by sign and word as well as by colour. */
export function badge(level, words) {
  const sign = html("span", { "aria-hidden": "true" }, BADGE_SIGNS[level]);
  return html("span", { class: `badge ${level}` }, sign, ` ${words}`);
}

/**
 * Shows or hides the page's banner. Only `text` is announced; `detail` may tick.
 * @param {{text: string, detail: string}|null} problem
 */
export function showBanner(problem) {
  const banner = byId("banner");
  banner.hidden = !problem;
  setText(banner.firstElementChild, problem?.text ?? "");
  setText(banner.lastElementChild, problem?.detail ?? "");
}

/** A banner for a feed whose last request failed. */
export function describeFailure({ text, since }) {
  const age = formatAge(clock.now() - since);
  return { text: `${text}.`, detail: `Since ${formatTime(since)} UTC, ${age} ago.` };
}
