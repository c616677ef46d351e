// Notifications of the browser for signals of favourites. They are asked for by a click in the
// settings, and come while a page of the dashboard is open.

import { html, setText } from "./dom.js";
import { splitSymbol } from "./format.js";
import { onPreference, preference, setPreference } from "./preferences.js";

let hasNone = !("Notification" in window); // known for sure only after the first one

// As the TA service sums up a signal: "BTCUSDT 1h ribbon_up at 1.23".
const SIGNAL = /^([A-Z0-9]+) ([0-9]+[a-z]) ([a-z_]+) at (\S+)$/;

/** Notifies of the signals among entries of the message log, if that is wanted and allowed. */
export function notifySignals(entries) {
  if (!preference("notifications", false) || whyImpossible()) return;
  const favourites = preference("favourites", []);
  for (const { id, type, summary } of entries) {
    const [, symbol, timeframe, signal, price] = (type === "signal" && SIGNAL.exec(summary)) || [];
    if (favourites.includes(symbol)) notify(id, symbol, timeframe, signal, price);
  }
}

/** Of several open pages each makes it, and by its tag the browser shows one. */
function notify(tag, symbol, timeframe, signal, price) {
  const title = `${splitSymbol(symbol)[0]}: ${signal.replaceAll("_", " ")}, ${timeframe}`;
  let notification;
  try {
    notification = new Notification(title, { body: `${symbol} at ${price}`, tag });
  } catch {
    hasNone = true; // a phone's browser may have only those of apps
    setPreference("notifications", false);
    return;
  }
  notification.addEventListener("click", () => {
    window.focus();
    location.assign(`/?${new URLSearchParams({ coin: symbol, tf: timeframe })}`);
  });
}

/** The setting: a box to tick, and why it may do nothing. */
export function notificationSetting() {
  const box = html("input", { type: "checkbox", name: "notifications" });
  const note = html("p", { class: "note", role: "status" });
  const show = () => {
    box.checked = preference("notifications", false) && !whyImpossible();
    box.disabled = !window.isSecureContext || hasNone;
    const none = preference("favourites", []).length ? "" : " No coin has a star yet.";
    setText(note, whyImpossible() || `While a page of the dashboard is open.${none}`);
  };
  box.addEventListener("change", async () => {
    if (box.checked) await Notification.requestPermission();
    setPreference("notifications", box.checked);
  });
  onPreference("notifications", show);
  onPreference("favourites", show);
  show();
  const label = html("label", {}, box, " signals of coins with a star");
  return html("fieldset", {}, html("legend", {}, "Notifications"), label, note);
}

/** Why there can be no notification, for people; "" if there can be. */
function whyImpossible() {
  if (!window.isSecureContext) {
    return (
      `The browser allows none for ${location.origin}, which is not encrypted. ` +
      "It allows them for http://127.0.0.1 and http://localhost, say through ssh -L, and for https."
    );
  }
  if (hasNone) return "This browser has no notifications for pages.";
  const isDenied = Notification.permission === "denied";
  if (isDenied) return "The browser forbids them for this page: its site settings allow them again.";
  if (Notification.permission !== "granted" && preference("notifications", false)) {
    return "Not allowed yet: tick the box again, and allow it when the browser asks.";
  }
  return "";
}
