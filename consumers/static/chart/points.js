// The points on the time axis of a chart. Pure.

const MAX_GAP = 500; // candles: a market that was away for longer has no gap as wide

/**
 * One point for each candle, and one without for each that the exchange does not have.
 * @param {Object} series as view.js takes it
 * @returns {{time: number, candle?: Object, lines?: Object}[]} `time` in seconds UTC; `lines` by
 *   indicator and line, null where there is none
 */
export function makePoints({ candles, lines, lengthMs }) {
  const points = [];
  for (const [at, candle] of candles.entries()) {
    const missing = at ? (candle.timestamp - candles[at - 1].timestamp) / lengthMs - 1 : 0;
    for (let back = Math.min(missing, MAX_GAP); back > 0; back -= 1) {
      points.push({ time: (candle.timestamp - back * lengthMs) / 1000 });
    }
    points.push({ time: candle.timestamp / 1000, candle, lines: linesAt(lines, at) });
  }
  return points;
}

function linesAt(lines, at) {
  const pick = (each) => Object.fromEntries(Object.entries(each).map(([key, line]) => [key, line[at]]));
  return Object.fromEntries(Object.entries(lines).map(([name, each]) => [name, pick(each)]));
}
