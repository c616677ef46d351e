// Redis Activity on the status page: the message log as it grows, filtered or paused, and how many
// messages there were a minute. Is handed what events bring; reads the log itself.

import { byId, html, missing, paint, setText } from "../shared/dom.js";
import { formatNumber } from "../shared/format.js";
import { ServerError, fetchJson } from "../shared/server.js";
import { minuteBars } from "../shared/drawings.js";

// ---- messages a minute --------------------------------------------------------------------------

export function showMinutes(counts) {
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
const SOURCE = /^[a-z0-9-]{1,40}$/; // as redis_log.py accepts it; the server refuses any other
const MAX_SOURCES = 50; // offered: a log full of made-up names must not fill the page
const LOG_COLUMNS = ["timestamp", "type", "source", "channel", "payload_size", "summary"];

/** The rows of the message log, newest on top: read once, then grown by events unless paused. */
export class MessageLog {
  #rows = byId("log-table").tBodies[0];
  #newest = null; // id of the top row: what is read and what events bring may overlap
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
      offerSources(answer.entries);
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
    offerSources(entries);
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
    return this.#newest === null || isLater(id, this.#newest);
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
    this.#newest = entries[0]?.id ?? null;
  }

  #prepend(entries) {
    if (!entries.length) return;
    this.#newest = entries.at(-1).id;
    const rows = entries.slice(-MAX_ROWS).reverse().map(drawEntry);
    for (const row of rows) row.classList.add("new");
    this.#rows.prepend(...rows);
    while (this.#rows.rows.length > MAX_ROWS) this.#rows.lastElementChild.remove();
    byId("log-note").hidden = true;
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

/**
 * Adds the sources of entries to the filter, which has those of this project: other programs call
 * themselves what they like. None is removed again, so the one that is chosen stays.
 */
function offerSources(entries) {
  const filter = byId("log-source");
  const offered = new Set(Array.from(filter.options, (option) => option.value));
  for (const { source = "" } of entries) {
    if (offered.size > MAX_SOURCES) return;
    if (offered.has(source) || !SOURCE.test(source)) continue;
    offered.add(source);
    filter.append(html("option", {}, source));
  }
}

/** Whether an id of a Redis stream, "milliseconds-number", comes after another. */
function isLater(id, other) {
  const [ms, number] = id.split("-").map(Number);
  const [otherMs, otherNumber] = other.split("-").map(Number);
  return ms > otherMs || (ms === otherMs && number > otherNumber);
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
  return html("tr", { "data-type": entry.type }, ...cells);
}

const LOG_FORMATS = {
  timestamp: (text) => text.match(/T(\d\d:\d\d:\d\d\.\d{3})Z$/)?.[1],
  payload_size: (text) => (/^\d{1,12}$/.test(text) ? formatNumber(Number(text)) : null),
};
