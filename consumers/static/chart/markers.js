// The signals and paper trades of a series, as markers on its candles and as words.

import { formatPrice, formatSigned, splitSignal } from "../shared/format.js";
import { ServerError, fetchJson } from "../shared/server.js";

const MAX_TRADES = 100;
const SIGNAL_LETTERS = { ribbon: "R", squeeze: "S", "stoch rsi": "K" };

/** What can be switched on and off, beside the indicators. */
export const LAYERS = [
  { id: "signals", label: "Signals", title: "Arrows: R EMA ribbon, S squeeze, K Stoch RSI" },
  { id: "trades", label: "Trades", title: "Paper trades: where they were bought and sold" },
];

/**
 * The newest paper trades of a series, and its open positions as trades without an exit. None if
 * the dashboard does not say.
 */
export async function fetchTrades({ symbol, timeframe }, signal) {
  const query = new URLSearchParams({ symbol, timeframe, limit: MAX_TRADES });
  try {
    const [closed, open] = await Promise.all([
      fetchJson(`/api/trades?${query}`, signal),
      fetchJson("/api/positions", signal),
    ]);
    const positions = open.positions
      .filter((each) => each.symbol === symbol && each.timeframe === timeframe)
      .map((each) => ({ ...each, entry_price: each.price }));
    return [...closed.trades, ...positions];
  } catch (error) {
    if (error instanceof ServerError) return [];
    throw error;
  }
}

/** Markers of signals: {at, words, look}, `at` is the open time of a candle in ms UTC. */
export function signalMarkers(signals, colours) {
  return signals.map(({ signal, price, candle }) => {
    const [what, way] = splitSignal(signal);
    return {
      at: candle,
      words: `${what} ${way} at ${formatPrice(price)}`,
      look: {
        position: way === "up" ? "belowBar" : "aboveBar",
        shape: way === "up" ? "arrowUp" : "arrowDown",
        color: way === "up" ? colours.up : colours.down,
        text: SIGNAL_LETTERS[what],
      },
    };
  });
}

/** Markers of trades, each on the candle in which it was made; those before all candles are none. */
export function tradeMarkers(trades, candles, colours) {
  const candleAt = (ms) => candles.findLast((candle) => candle.timestamp <= ms)?.timestamp;
  return trades
    .flatMap((trade) => [buyMarker(trade, colours), trade.closed && sellMarker(trade, colours)])
    .filter(Boolean)
    .map((marker) => ({ ...marker, at: candleAt(marker.ms) }))
    .filter((marker) => marker.at);
}

function buyMarker({ opened, entry_price: price, signal }, colours) {
  return {
    ms: opened,
    words: `bought at ${formatPrice(price)} on ${signal.replaceAll("_", " ")}`,
    look: { position: "belowBar", shape: "circle", color: colours.accent, text: "buy" },
  };
}

function sellMarker({ closed, exit_price: price, exit_signal: signal, profit_pct: percent }, colours) {
  const profit = `${formatSigned(percent, 2)} %`;
  return {
    ms: closed,
    words: `sold at ${formatPrice(price)} on ${signal.replaceAll("_", " ")}, ${profit}`,
    look: { position: "aboveBar", shape: "square", color: colours.warn, text: `sell ${profit}` },
  };
}
