// What all pages have at the right of their header: the settings (theme, time zone, notifications,
// and what a page adds) and the list of keys, each a dialog that Escape closes.

import { forgetPainted, html, setText } from "./dom.js";
import { showTimesIn, zoneName } from "./format.js";
import { notificationSetting } from "./notifications.js";
import { onPreference, preference, setPreference } from "./preferences.js";

const THEMES = { system: "as the system", light: "light", dark: "dark" };
const TIME_ZONES = { utc: "UTC", local: "local" };

/**
 * Puts the buttons of the settings and of the keys into the page's header, and applies the settings.
 * Elements with `data-zone` show the name of the time zone.
 * @param {Object} page
 * @param {function()} page.redraw shows everything again, because times look different
 * @param {Element[]} [page.settings] further fieldsets
 * @param {Object<string, string>} [page.keys] what further keys do
 * @param {Element} [page.search] what "/" gives the focus to
 */
export function setUpPage({ redraw, settings = [], keys = {}, search = null }) {
  follow("theme", "system", showTheme);
  follow("timeZone", "utc", (zone) => {
    showTimesIn(zone);
    const name = zoneName(Date.now());
    for (const element of document.querySelectorAll("[data-zone]")) setText(element, name);
    forgetPainted();
    redraw();
  });
  const settingsDialog = dialog(
    "settings",
    "Settings",
    choice("theme", "Theme", THEMES),
    choice("timeZone", "Times", TIME_ZONES),
    notificationSetting(),
    ...settings,
  );
  const allKeys = {
    ...(search ? { "/": "search" } : {}),
    ...keys,
    "?": "show these keys",
    Esc: "close what is open",
  };
  const keysDialog = dialog("keys", "Keys", keyList(allKeys));
  const buttons = [opener("Settings", "⚙", settingsDialog), opener("Keys", "?", keysDialog)];
  document.querySelector(".page-header").append(html("div", { class: "tools" }, ...buttons));
  document.addEventListener("keydown", (event) => {
    if (isTyping(event) || document.querySelector("dialog[open]")) return;
    if (event.key === "?") keysDialog.showModal();
    else if (event.key === "/" && search) search.focus();
    else return;
    event.preventDefault(); // "/" would be typed into the box, or open the browser's own search
  });
}

/** Calls `apply` with the preference `name` now, and at each change. */
function follow(name, fallback, apply) {
  apply(preference(name, fallback));
  onPreference(name, apply);
}

function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

function isTyping({ target, ctrlKey, metaKey, altKey }) {
  const isField = target instanceof Element && target.matches("input, select, textarea");
  return isField || ctrlKey || metaKey || altKey;
}

/** Radio buttons for a preference. The first option is the fallback. */
function choice(name, legend, options) {
  const [fallback] = Object.keys(options);
  const radios = Object.entries(options).map(([value, label]) => {
    const radio = html("input", { type: "radio", name, value });
    radio.addEventListener("change", () => setPreference(name, value));
    return html("label", {}, radio, ` ${label}`);
  });
  const fieldset = html("fieldset", {}, html("legend", {}, legend), ...radios);
  follow(name, fallback, (chosen) => {
    const wanted = chosen in options ? chosen : fallback;
    fieldset.querySelector(`[value="${wanted}"]`).checked = true;
  });
  return fieldset;
}

function keyList(keys) {
  const pairs = Object.entries(keys).map(([key, what]) =>
    html("div", {}, html("dt", {}, html("kbd", {}, key)), html("dd", {}, what)),
  );
  return html("dl", { class: "keys" }, ...pairs);
}

function opener(name, sign, opened) {
  const attributes = { type: "button", class: "tool", "aria-label": name, title: name };
  const button = html("button", { ...attributes, "aria-haspopup": "dialog" }, sign);
  button.addEventListener("click", () => opened.showModal());
  return button;
}

/** A dialog at the end of the page; a click beside it closes it, too. */
function dialog(id, title, ...content) {
  const close = html("button", { class: "close", "aria-label": "Close" }, "✕");
  const head = html("div", { class: "dialog-head" }, html("h2", { id: `${id}-title` }, title));
  head.append(html("form", { method: "dialog" }, close));
  const attributes = { id, "aria-labelledby": `${id}-title`, closedby: "any" };
  const element = html("dialog", attributes, head, ...content);
  // Escape closes the dialog alone, not what is open below it.
  element.addEventListener("keydown", (event) => event.stopPropagation());
  document.body.append(element);
  return element;
}
