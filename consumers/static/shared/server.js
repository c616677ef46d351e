// What the server says: the newest answer, the server's clock, and its events.

import { isLive } from "./events.js";
import { formatAge, formatMoment, parseTime, sentence } from "./format.js";

const POLL_INTERVAL_MS = 5_000;
const REQUEST_TIMEOUT_MS = 8_000;
const NOT_MODIFIED = 304;
const DEBOUNCE_MS = 300; // a refresh publishes several updates within a moment
const TICK_MS = 1_000;
const BLANK_AFTER_MS = 60_000; // an older answer is not shown: no price lives longer in Redis

export { listen } from "./events.js";

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
  return (await request(path, { signal })).body;
}

/** The headers and the JSON body behind `path`; the body is null if it is the one of `etag`. */
async function request(path, { signal, etag }) {
  const deadline = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
  const end = signal ? AbortSignal.any([signal, deadline]) : deadline;
  let response;
  let body;
  try {
    response = await fetch(path, { signal: end, headers: etag ? { "If-None-Match": etag } : {} });
    if (response.status === NOT_MODIFIED) return { headers: response.headers, body: null };
    body = await response.json();
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof SyntaxError) throw new ServerError(response.status, "No JSON came");
    throw new ServerError(0, "The dashboard does not answer");
  }
  if (!response.ok) throw new ServerError(response.status, body.error ?? `HTTP ${response.status}`);
  return { headers: response.headers, body };
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
 * The newest answer behind a path whose body has a `timestamp`. Asks at once, when told to, when the
 * page comes into view again, when something in the body expires (its `expires_at`, if it has one,
 * ms UTC), and every 5 s; calls `onChange` after each answer or failure. Asks nothing while the page
 * is hidden.
 *
 * `everyMs` is for answers whose every change is told by an event. It replaces the 5 s as long as
 * events arrive and requests do not fail.
 */
export class Feed {
  #path;
  #onChange;
  #everyMs;
  #body = null;
  #etag = null;
  #askedAt = 0;
  #asking = false;
  #askAgain = false;
  #timer = 0;

  /** Why the last request failed and when the last answer was, ms UTC; null while all is well. */
  failure = null;

  constructor(path, onChange, { everyMs = POLL_INTERVAL_MS } = {}) {
    this.#path = path;
    this.#onChange = onChange;
    this.#everyMs = everyMs;
  }

  /** The newest body, or null if there is none that may still be shown. */
  get body() {
    const isOld = this.#body && clock.now() - this.#body.timestamp > BLANK_AFTER_MS;
    return isOld ? null : this.#body;
  }

  start() {
    setInterval(() => {
      if (!this.#asking && this.#isDue()) this.#ask();
    }, TICK_MS);
    document.addEventListener("visibilitychange", () => this.#ask());
    this.#ask();
  }

  /** Asks in a moment, once for all calls until then. */
  askSoon() {
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      this.#ask();
    }, DEBOUNCE_MS);
  }

  #isDue() {
    const isWell = isLive() && !this.failure;
    const waitedMs = Math.abs(Date.now() - this.#askedAt);
    const hasExpired = clock.now() >= (this.#body?.expires_at ?? Infinity);
    return (hasExpired && !this.failure) || waitedMs >= (isWell ? this.#everyMs : POLL_INTERVAL_MS);
  }

  /** One request at a time; who asks during one gets another after it. */
  async #ask() {
    this.#askAgain = true;
    if (this.#asking) return;
    this.#asking = true;
    try {
      while (this.#askAgain && !document.hidden) {
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
    this.#askedAt = askedAt;
    try {
      const { headers, body } = await request(this.#path, { etag: this.#etag });
      this.#body = body ?? { ...this.#body, timestamp: Number(headers.get("X-Timestamp")) };
      this.#etag = headers.get("ETag");
      clock.set(this.#body.timestamp, askedAt);
      this.failure = null;
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      const since = this.#body?.timestamp ?? this.failure?.since ?? clock.now();
      this.failure = { text: error.message, since };
    }
  }
}

/** Calls `tick` now, each second, and when the page comes into view again. */
export function everySecond(tick) {
  setInterval(tick, TICK_MS);
  document.addEventListener("visibilitychange", tick);
  tick();
}

/** A banner for a feed whose last request failed. */
export function describeFailure({ text, since }) {
  return { text: sentence(text), detail: describeSince(since) };
}

/** "Since 03:07:30 UTC, 12 s ago." of a time in ms UTC. */
export function describeSince(since) {
  const age = formatAge(clock.now() - since);
  return `Since ${formatMoment(since, clock.now())}, ${age} ago.`;
}

/** The service's trouble as /api/ has it, for a banner. */
export function describeTrouble({ text, detail, since, until }) {
  const end = parseTime(until);
  const parts = [
    sentence(detail),
    end && `Until ${formatMoment(end, clock.now())}, in ${formatAge(end - clock.now())}.`,
    parseTime(since) && describeSince(parseTime(since)),
  ];
  return { text: sentence(text), detail: parts.filter(Boolean).join(" ") };
}
