// Times on the chart's axis and in its readout, in UTC or in the browser's time zone. The library
// counts in seconds UTC and knows no other zone: its marks would stand at midnight UTC.

import { defaultHorzScaleBehavior } from "../vendor/lightweight-charts.js";
import { DAY_MS, HOUR_MS, MINUTE_MS, formatDay, formatTime } from "../shared/format.js";

// What a tick mark stands for decides which are kept where there is no room for all. The numbers
// are the library's.
const WEIGHTS = [
  [12 * HOUR_MS, 33],
  [6 * HOUR_MS, 32],
  [3 * HOUR_MS, 31],
  [HOUR_MS, 30],
  [30 * MINUTE_MS, 22],
  [5 * MINUTE_MS, 21],
  [MINUTE_MS, 20],
];
const YEAR = 70;
const MONTH = 60;
const DAY = 50;
const YEAR_MARK = 0;
const MONTH_MARK = 1;
const DAY_MARK = 2;

/** The time that a clock of the zone shows, as if it were UTC. */
function shift(ms, zone) {
  return zone === "local" ? ms - new Date(ms).getTimezoneOffset() * MINUTE_MS : ms;
}

/** ms UTC -> "24 Nov 03:05". */
export function formatMinute(ms) {
  return `${formatDay(ms)} ${formatTime(ms).slice(0, 5)}`;
}

/** The text of a tick mark; `kind` is the library's. */
export function formatTick(seconds, kind, zone) {
  const ms = seconds * 1000;
  const [, month] = formatDay(ms).split(" ");
  if (kind === YEAR_MARK) return String(new Date(shift(ms, zone)).getUTCFullYear());
  if (kind === MONTH_MARK) return month;
  return kind === DAY_MARK ? formatDay(ms) : formatTime(ms).slice(0, 5);
}

/** The library's time scale, with days and hours that begin when they do in the zone. */
export function timeScaleIn(zone) {
  const TimeScale = defaultHorzScaleBehavior();
  return new (class extends TimeScale {
    fillWeightsForPoints(points, start) {
      super.fillWeightsForPoints(points, start);
      for (let at = Math.max(start, 1); at < points.length; at += 1) {
        const [before, now] = [points[at - 1], points[at]].map(({ originalTime }) =>
          shift(originalTime * 1000, zone),
        );
        points[at].timeWeight = weigh(before, now);
      }
    }
  })();
}

function weigh(before, now) {
  if (Math.floor(before / DAY_MS) === Math.floor(now / DAY_MS)) {
    const crossed = WEIGHTS.find(
      ([length]) => Math.floor(before / length) !== Math.floor(now / length),
    );
    return crossed?.[1] ?? 0;
  }
  const [from, to] = [new Date(before), new Date(now)];
  if (from.getUTCFullYear() !== to.getUTCFullYear()) return YEAR;
  return from.getUTCMonth() === to.getUTCMonth() ? DAY : MONTH;
}
