// What the scanner page knows of its coins: the answer of /api/scanner in the form that the rest
// of the page reads, or without values. Asks nobody and shows nothing.

/** What there is before the first answer. */
export const NO_COINS = { timeframes: [], updates: {}, coins: [] };

/** The answer of /api/scanner as this page uses it. */
export function readAnswer({ redis, trouble, timeframes, updates, symbols }) {
  return { redis, trouble, timeframes, updates, coins: symbols.map(readCoin) };
}

/**
 * What the columns show of a coin. The answer holds the values of its keys in Redis as they are,
 * null where a key is gone. What is not there, or is no number, is null here; `reasons` says why,
 * by column.
 */
function readCoin({ symbol, price, scan, ta, signal }) {
  const analyses = Object.entries(ta).map(([timeframe, value]) => [timeframe, readAnalysis(value)]);
  const noPrice = Object.fromEntries(
    ["price", "change24h", "volume"].map((column) => [column, "no fresh price in Redis"]),
  );
  return {
    symbol,
    price: number(price?.price),
    change24h: number(price?.change24h),
    volume: number(price?.volume),
    pricedAt: number(price?.timestamp),
    rsi: number(scan?.rsi),
    vwap: number(scan?.vwap),
    vwapDistance: number(scan?.vwap_distance_pct),
    bandsPlace: number(scan?.bands?.place),
    bandLower: number(scan?.bands?.lower),
    bandMiddle: number(scan?.bands?.middle),
    bandUpper: number(scan?.bands?.upper),
    score: number(scan?.score),
    scoredAt: number(scan?.timestamp),
    closes: scan?.closes?.every(Number.isFinite) ? scan.closes : [],
    ta: Object.fromEntries(analyses),
    signal,
    reasons: {
      ...(price ? {} : noPrice),
      ...(signal ? {} : { signal: "none among the last 1,000 signals" }),
      ...scan?.reasons,
    },
  };
}

function readAnalysis(value) {
  if (!value) return null;
  const { ribbon, squeeze, stoch_rsi: stochRsi, reasons } = value;
  return {
    ribbon: ribbon?.state ?? null,
    squeeze: squeeze && (squeeze.on ? "on" : "off"),
    momentum: number(squeeze?.momentum),
    k: number(stochRsi?.k),
    d: number(stochRsi?.d),
    zone: stochRsi?.zone ?? null,
    reasons: reasons ?? {},
  };
}

function number(value) {
  return Number.isFinite(value) ? value : null;
}

/** The same coins without any value: the newest answer is too old to be shown. */
export function blanked({ timeframes, coins }) {
  const reasons = { all: "the dashboard does not answer" };
  const blank = ({ symbol }) => ({ symbol, volume: null, closes: [], ta: {}, reasons });
  return { timeframes, updates: {}, coins: coins.map(blank) };
}
