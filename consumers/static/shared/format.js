// Numbers, ages, times and sentences as text. Knows nothing of the page or the server; which time
// zone times are in, it is told.

const SECOND_MS = 1_000;
export const MINUTE_MS = 60_000;
export const HOUR_MS = 60 * MINUTE_MS;
export const DAY_MS = 24 * HOUR_MS;
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

let timeZone = "UTC"; // an IANA name; undefined is the browser's own

/** Times are shown in UTC from now on, or in the time zone of the browser. */
export function showTimesIn(zone) {
  timeZone = zone === "local" ? undefined : "UTC";
}

/** ms UTC -> "03:07:30", or "03:07:30.042" with 3 `digits`, in the time zone that is shown. */
export function formatTime(ms, digits) {
  const parts = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const options = { ...parts, fractionalSecondDigits: digits, timeZone };
  return new Date(ms).toLocaleTimeString("en-GB", options);
}

/** ms UTC -> "24 Nov", in the time zone that is shown. */
export function formatDay(ms) {
  return new Date(ms).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone });
}

/** The name of the time zone that is shown, at a time in ms UTC: "UTC", "CET", "GMT+5:30". */
export function zoneName(ms) {
  const format = new Intl.DateTimeFormat("en-GB", { timeZone, timeZoneName: "short" });
  return format.formatToParts(ms).find((part) => part.type === "timeZoneName").value;
}

/** ms UTC -> "24 Nov 03:07:30". */
export function formatDayTime(ms) {
  return `${formatDay(ms)} ${formatTime(ms)}`;
}

/** ms UTC -> "03:07:30"; with the day before it if that is another one than at `nowMs`. */
export function formatRecent(ms, nowMs) {
  return formatDay(ms) === formatDay(nowMs) ? formatTime(ms) : formatDayTime(ms);
}

/** The same with the time zone: "03:07:30 UTC". */
export function formatMoment(ms, nowMs) {
  return `${formatRecent(ms, nowMs)} ${zoneName(ms)}`;
}

/** ms UTC -> "As of 03:07:30 UTC". */
export function formatAsOf(ms) {
  return `As of ${formatTime(ms)} ${zoneName(ms)}`;
}

/** Text as a sentence: begins with a capital and ends with one full stop, whatever it had. */
export function sentence(text) {
  const trimmed = text.trim();
  const end = /[.!?…]$/.test(trimmed) || !trimmed ? "" : ".";
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + end;
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

/** The name of a signal in two parts: "stoch_rsi_up" -> ["stoch rsi", "up"]. */
export function splitSignal(name) {
  const at = name.lastIndexOf("_");
  return [name.slice(0, at).replaceAll("_", " "), name.slice(at + 1)];
}
