// Redis Activity on the status page: the message log as it grows, filtered, paused or paged back,
// and how many messages there were a minute. Is handed what events bring; reads the log itself.

import { byId, html, paint, setText } from "../shared/dom.js";
import {
  formatAge,
  formatMoment,
  formatNumber,
  formatRecent,
  parseTime,
  sentence,
} from "../shared/format.js";
import { ServerError, clock, fetchJson } from "../shared/server.js";
import { minuteBars } from "../shared/drawings.js";
import { LogRows, countEntries, isLater } from "./log-rows.js";

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

const FETCHED_ENTRIES = 500; // two busy minutes, which are some 20 rows
const RARE_TYPES = ["signal", "trade", "error"]; // each has a stream of its own
const SOON_MS = 300; // entries come in bursts, and so do keystrokes
const SOURCE = /^[a-z0-9-]{1,40}$/; // as redis_log.py accepts it; the server refuses any other
const MAX_SOURCES = 50; // offered: a log full of made-up names must not fill the page

/**
 * The message log, newest on top: read once, then grown by events unless paused.
 *
 * Events bring entries of the one log. If only rare types are wanted, the rows are those of their
 * streams, whose ids are others: then an event only says that it is time to read them again.
 */
export class MessageLog {
  #rows = new LogRows(byId("log-table").tBodies[0]);
  #types = new Set(); // none: all
  #newest = null; // id of the top row: what is read and what events bring may overlap
  #shownPath = ""; // of the rows
  #arrived = []; // what events brought while reading
  #isReading = false;
  #isPaused = false;
  #missed = 0; // entries that came while paused
  #reading = new AbortController();
  #isDue = false; // a read that events asked for
  #typing = 0; // timer
  #extents = {};

  /** Whether the last read failed, so that it is worth another. */
  hasFailed = false;

  constructor() {
    for (const chip of chips()) chip.addEventListener("click", () => this.#toggleType(chip));
    byId("log-source").addEventListener("change", () => this.read());
    byId("log-q").addEventListener("input", () => this.#readAfterTyping());
    byId("log-older").addEventListener("click", () => this.#readOlder());
    byId("log-pause").addEventListener("click", () => this.#togglePause());
  }

  /** Fills the table with the newest entries that pass the filters. If it was paused meanwhile, only
   *  another choice of filters changes what is shown. */
  async read() {
    const path = this.#path();
    const answer = await this.#ask(path);
    if (!answer) return;
    const isSame = path === this.#shownPath;
    if (!(isSame && this.#isPaused)) this.#show(path, answer.entries, isSame ? this.#newest : null);
    this.#finishReading(this.#rows.oldest ? "" : "No entries.");
  }

  #show(path, entries, seen) {
    this.#rows.replace(entries, seen);
    this.#newest = entries[0]?.id ?? null;
    this.#shownPath = path;
    this.#missed = 0;
  }

  /** Reads again after a gap in the events, but leaves alone what is being read on screen. */
  catchUp() {
    if (!this.#isPaused) this.read();
  }

  /** @param {Object[]} entries oldest first, of any type and source */
  add(entries) {
    offerSources(entries);
    const wanted = entries.filter((entry) => this.#isNew(entry) && this.#isWanted(entry));
    if (!wanted.length) return;
    if (this.#isReading && !this.#isRare()) this.#arrived.push(...wanted);
    else if (this.#isPaused) this.#miss(wanted.length);
    else if (this.#isRare()) this.#catchUpSoon();
    else this.#prepend(wanted.reverse());
  }

  /** @param {Object|undefined} extents of the log ("all") and of each rare type; see /api/status */
  showExtents(extents = {}) {
    this.#extents = extents;
    for (const chip of chips()) showExtent(chip.lastElementChild, extents[chip.dataset.type]);
    this.#showReach();
  }

  #showReach() {
    const names = this.#isRare() ? [...this.#types] : ["all"];
    const known = names.map((name) => this.#extents[name]).filter(Boolean);
    setText(byId("log-reach"), known.length === names.length ? describeReach(known) : "");
  }

  #isRare() {
    return this.#types.size > 0 && [...this.#types].every((type) => RARE_TYPES.includes(type));
  }

  #path(before = null) {
    const query = new URLSearchParams({ limit: FETCHED_ENTRIES });
    for (const type of this.#types) query.append("type", type);
    for (const name of ["source", "q"]) {
      const wanted = byId(`log-${name}`).value.trim();
      if (wanted) query.set(name, wanted);
    }
    if (before) query.set("before", before);
    return `/api/redis/log?${query}`;
  }

  #isWanted({ type, source, channel = "", summary = "" }) {
    const wantedSource = byId("log-source").value;
    const text = byId("log-q").value.trim().toLowerCase();
    return (
      (!this.#types.size || this.#types.has(type)) &&
      (!wantedSource || source === wantedSource) &&
      [channel, summary].some((each) => each.toLowerCase().includes(text))
    );
  }

  #isNew({ id }) {
    return this.#isRare() || this.#newest === null || isLater(id, this.#newest);
  }

  /** The answer; null if it failed, or if something else is wanted by now. */
  async #ask(path) {
    this.#reading.abort();
    this.#reading = new AbortController();
    this.#isReading = true;
    this.#arrived = [];
    try {
      const answer = await fetchJson(path, this.#reading.signal);
      this.hasFailed = false;
      offerSources(answer.entries);
      return answer;
    } catch (error) {
      if (error.name === "AbortError") return null;
      if (!(error instanceof ServerError)) throw error;
      this.hasFailed = true;
      this.#finishReading(sentence(error.message));
      return null;
    }
  }

  #finishReading(note) {
    this.#isReading = false;
    setText(byId("log-note"), note);
    byId("log-note").hidden = !note;
    this.#showPause();
    this.add(this.#arrived);
  }

  /** Adds the page before the oldest row. Pauses, so that nothing pushes it away. */
  async #readOlder() {
    if (!this.#rows.oldest) return;
    this.#isPaused = true;
    const answer = await this.#ask(this.#path(this.#rows.oldest));
    if (!answer) return;
    const { entries } = answer;
    scrollTo(this.#rows.append(entries));
    const to = formatMoment(Number(this.#rows.oldest.split("-")[0]), clock.now());
    const added = entries.length ? `${countEntries(entries.length)} added` : "No older entries";
    this.#finishReading(`${added}: shown back to ${to}.`);
  }

  #prepend(entries) {
    this.#newest = entries[0].id;
    this.#rows.prepend(entries);
    byId("log-note").hidden = true;
  }

  #miss(count) {
    this.#missed += count;
    this.#showPause();
  }

  #toggleType({ dataset }) {
    if (!dataset.type) this.#types.clear();
    else if (!this.#types.delete(dataset.type)) this.#types.add(dataset.type);
    for (const chip of chips()) {
      const { type } = chip.dataset;
      const isPressed = type ? this.#types.has(type) : !this.#types.size;
      chip.setAttribute("aria-pressed", String(isPressed));
    }
    this.#showReach();
    this.#newest = null; // its id may be one of another stream
    this.read();
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

  /** Once for all calls until then. */
  #catchUpSoon() {
    if (this.#isDue) return;
    this.#isDue = true;
    setTimeout(() => {
      this.#isDue = false;
      this.catchUp();
    }, SOON_MS);
  }

  #readAfterTyping() {
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => this.read(), SOON_MS);
  }
}

function chips() {
  return byId("log-types").querySelectorAll("button");
}

function showExtent(place, extent) {
  paint(place, extent ?? null, () => {
    if (!extent) return "";
    if (!extent.length) return "none";
    return `${formatNumber(extent.length)}, newest ${formatRecent(parseTime(extent.newest), clock.now())}`;
  });
}

/** How many entries there are, and from when the oldest is. */
function describeReach(extents) {
  const length = extents.reduce((sum, extent) => sum + extent.length, 0);
  if (!length) return "No entries yet";
  const oldest = Math.min(...extents.filter(({ oldest }) => oldest).map((e) => parseTime(e.oldest)));
  const age = formatAge(clock.now() - oldest);
  return `${countEntries(length)}, back to ${formatMoment(oldest, clock.now())}, ${age} ago`;
}

/** Scrolls the log, not the page, so that `row` is below the head. */
function scrollTo(row) {
  if (!row) return;
  const table = byId("log-table");
  table.parentElement.scrollTop = row.offsetTop - table.tHead.offsetHeight;
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
