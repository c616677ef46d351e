// How the library is to draw: options of the chart and of its candles, in the colours of colours.js.

import { CrosshairMode } from "../vendor/lightweight-charts.js";
import { formatMinute, formatTick } from "./times.js";

/** Options of the chart, with times in a zone. */
export function chartOptions(colours, zone) {
  const line = { color: colours.muted, labelBackgroundColor: colours.muted };
  return {
    autoSize: true,
    layout: {
      background: { color: colours.surface },
      textColor: colours.muted,
      fontFamily: "system-ui, sans-serif",
      fontSize: 11,
      panes: { separatorColor: colours.line, separatorHoverColor: colours.raised },
      attributionLogo: false, // its <style> is against the policy; the panel has words and link
    },
    grid: { vertLines: { color: colours.line }, horzLines: { color: colours.line } },
    crosshair: { mode: CrosshairMode.Normal, vertLine: line, horzLine: line },
    rightPriceScale: { borderColor: colours.line, scaleMargins: { top: 0.14, bottom: 0.08 } },
    timeScale: {
      borderColor: colours.line,
      timeVisible: true,
      fixLeftEdge: true,
      minBarSpacing: 0.3,
      tickMarkFormatter: (seconds, kind) => formatTick(seconds, kind, zone),
    },
    localization: { timeFormatter: (seconds) => formatMinute(seconds * 1000) },
    handleScroll: { vertTouchDrag: false }, // which scrolls the page
  };
}

/** Rising hollow, falling filled: told apart without colours. */
export function candleOptions(colours) {
  return {
    upColor: "rgba(0, 0, 0, 0)",
    downColor: colours.down,
    borderUpColor: colours.up,
    borderDownColor: colours.down,
    wickUpColor: colours.up,
    wickDownColor: colours.down,
    lastValueVisible: false,
    priceLineVisible: false,
  };
}
