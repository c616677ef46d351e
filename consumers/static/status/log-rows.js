// The rows of the message log: one an entry, and one for all that a refresh wrote, which opens.
// Knows nothing of the server or of filters.

import { html, missing, setText } from "../shared/dom.js";
import { formatNumber, formatTime, parseTime } from "../shared/format.js";

const MAX_ROWS = 500;
const MAX_TEXT = 500; // of a field; more is cut off
const SAME_REFRESH_MS = 1_000; // the writes of one transaction have ids of the same moment
const GROUPED_TYPE = "cache_write";
const COLUMNS = ["timestamp", "type", "source", "channel", "payload_size", "summary"];

/** Newest on top. Entries are as /api/redis/log has them; those of one call are newest first. */
export class LogRows {
  #body;
  #groups = new Map(); // the last of each key, at the bottom: older entries may belong to it

  /** Id of the oldest entry shown, from which to go on; null if there is none. */
  oldest = null;

  constructor(body) {
    this.#body = body;
  }

  /** Shows these entries alone; those with an id after `seen` light up. What was open stays open. */
  replace(entries, seen = null) {
    const open = new Set(this.#buttons("[aria-expanded=true]").map(newestOf));
    const [focused] = this.#buttons(":focus").map(newestOf);
    this.#groups = new Map();
    this.oldest = entries.at(-1)?.id ?? null;
    this.#body.replaceChildren(...drawRows(entries, this.#groups, seen));
    for (const button of this.#buttons("")) {
      if (open.has(newestOf(button))) button.click();
      if (focused === newestOf(button)) button.focus({ preventScroll: true });
    }
  }

  /** Those of the groups' buttons that `selector` selects. */
  #buttons(selector) {
    return Array.from(this.#body.querySelectorAll(`.unfold${selector}`));
  }

  /** Adds older entries; returns the first row that is new, if any. */
  append(entries) {
    if (entries.length) this.oldest = entries.at(-1).id;
    const rows = drawRows(entries, this.#groups);
    this.#body.append(...rows);
    return rows[0];
  }

  /** Adds newer entries, which light up, and drops the oldest rows if there are too many. */
  prepend(entries) {
    this.oldest ??= entries.at(-1).id;
    this.#body.prepend(...drawRows(entries, new Map(), "0-0"));
    const { rows } = this.#body;
    if (rows.length <= MAX_ROWS) return;
    while (rows.length > MAX_ROWS) this.#body.lastElementChild.remove();
    const ids = Array.from(rows, (row) => row.dataset.oldest);
    this.oldest = ids.reduce((oldest, id) => (isLater(oldest, id) ? id : oldest));
    this.#groups = new Map();
  }
}

/** Whether an id of a Redis stream, "milliseconds-number", comes after another. */
export function isLater(id, other) {
  const [ms, number] = id.split("-").map(Number);
  const [otherMs, otherNumber] = other.split("-").map(Number);
  return ms > otherMs || (ms === otherMs && number > otherNumber);
}

/** "1 entry", "1,234 entries" */
export function countEntries(count) {
  return `${formatNumber(count)} ${count === 1 ? "entry" : "entries"}`;
}

/**
 * New rows for entries that belong to none of `groups`, to which new groups are added.
 * Rows light up whose newest entry has an id after `seen`.
 */
function drawRows(entries, groups, seen = null) {
  const rows = [];
  for (const entry of entries) {
    const key = groupKey(entry);
    if (key && groups.get(key)?.takes(entry)) continue;
    const group = key ? new Group(entry) : null;
    if (group) groups.set(key, group);
    const row = group?.row ?? drawEntry(entry);
    row.classList.toggle("new", seen !== null && isLater(entry.id, seen));
    rows.push(row);
  }
  return rows;
}

/** What the writes of one refresh have in common; null for an entry that stands alone. */
function groupKey({ type, source, channel }) {
  if (type !== GROUPED_TYPE) return null;
  return JSON.stringify([source, groupChannel(String(channel))]);
}

/** "market:ohlcv:BTCUSDT:5m" -> "market:ohlcv:*:5m" */
function groupChannel(channel) {
  return channel.replace(/^([^:]*:[^:]*):[^:]+/, "$1:*");
}

/** The row of writes that belong together. It looks like that of an entry while it has only one. */
class Group {
  #entries;
  #button = html("button", { type: "button", class: "unfold", "aria-expanded": "false" });
  #members = []; // the rows of the entries, while they are shown

  constructor(entry) {
    this.#entries = [entry];
    this.row = drawEntry(entry);
    this.row.dataset.newest = entry.id;
    this.#button.addEventListener("click", () => this.#toggle());
  }

  /** Adds an entry that is older than the others, if it is of the same moment. */
  takes(entry) {
    if (idTime(this.#entries.at(-1)) - idTime(entry) > SAME_REFRESH_MS) return false;
    this.#entries.push(entry);
    this.row.dataset.oldest = entry.id;
    this.#draw();
    if (this.#members.length) this.#unfold();
    return true;
  }

  #draw() {
    const sizes = this.#entries.map((each) => Number(each.payload_size) || 0);
    const size = sizes.reduce((sum, each) => sum + each, 0);
    const channel = groupChannel(String(this.#entries[0].channel));
    const common = { ...this.#entries[0], channel, payload_size: size };
    setText(this.#button, countEntries(this.#entries.length));
    this.row.replaceChildren(...drawCells(common).slice(0, -1));
    this.row.append(html("td", { "data-column": "summary" }, this.#button));
  }

  #toggle() {
    if (this.#members.length) this.#fold();
    else this.#unfold();
    this.#button.setAttribute("aria-expanded", String(this.#members.length > 0));
  }

  #unfold() {
    this.#fold();
    this.#members = this.#entries.map(drawEntry);
    for (const row of this.#members) row.classList.add("member");
    this.row.after(...this.#members);
  }

  #fold() {
    for (const row of this.#members) row.remove();
    this.#members = [];
  }
}

/** Id of the newest entry of the group that a button opens. */
function newestOf(button) {
  return button.closest("tr").dataset.newest;
}

function idTime({ id }) {
  return Number(id.split("-")[0]);
}

function drawEntry(entry) {
  return html("tr", { "data-type": entry.type, "data-oldest": entry.id }, ...drawCells(entry));
}

/** The cells of an entry, any of whose fields may be missing or be hostile text. */
function drawCells(entry) {
  return COLUMNS.map((column) => {
    const text = String(entry[column] ?? "").slice(0, MAX_TEXT);
    const shown = FORMATS[column]?.(text) ?? text;
    const attributes = { "data-column": column, title: shown === text ? null : text };
    const isThere = entry[column] !== undefined;
    return html("td", attributes, ...(isThere ? [shown] : missing("missing in the entry")));
  });
}

const MS_DIGITS = 3;
const ISO_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/; // any program may write others
const FORMATS = {
  timestamp: (text) => (ISO_TIME.test(text) ? formatTime(parseTime(text), MS_DIGITS) : null),
  payload_size: (text) => (/^\d{1,12}$/.test(text) ? formatNumber(Number(text)) : null),
};
