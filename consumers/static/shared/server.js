// What the server says: the newest answer, the server's clock, and its events.

import { formatAge, formatTime } from "./format.js";

const POLL_INTERVAL_MS = 5_000;
const REQUEST_TIMEOUT_MS = 8_000;
const RETRY_EVENTS_MS = 5_000;
const DEBOUNCE_MS = 300; // a refresh publishes several updates within a moment
const TICK_MS = 1_000;
const BLANK_AFTER_MS = 60_000; // an older answer is not shown: no price lives longer in Redis

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
  setInterval(tick, TICK_MS);
  document.addEventListener("visibilitychange", tick);
  tick();
}

/** A banner for a feed whose last request failed. */
export function describeFailure({ text, since }) {
  const age = formatAge(clock.now() - since);
  return { text: `${text}.`, detail: `Since ${formatTime(since)} UTC, ${age} ago.` };
}
