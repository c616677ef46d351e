// Elements, and what pages have in common to show. Whatever the server sends is text: elements are
// made by `html` and `svg`, never parsed.

const MISSING = "–";
const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/**
 * A new HTML element. Attributes that are null, undefined or false are left out, `true` is set
 * without a value; children are nodes or text.
 */
export function html(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** A new SVG element, likewise. */
export function svg(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);
}

function furnish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Text for screen readers only. */
export function hiddenText(text) {
  return html("span", { class: "visually-hidden" }, text);
}

/** A value that is not there, and why. */
export function missing(reason) {
  const dash = html("span", { class: "missing", title: reason, "aria-hidden": "true" }, MISSING);
  return [dash, hiddenText(reason)];
}

/** Sets text only where it differs, so as not to disturb a selection or a screen reader. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let painted = new WeakMap();

/**
 * Fills an element with `draw(content)`, nodes or text, unless it already shows the same content.
 * @param {*} content anything that JSON can hold
 */
export function paint(element, content, draw) {
  const key = JSON.stringify(content);
  if (painted.has(element) && painted.get(element) === key) return;
  painted.set(element, key);
  element.replaceChildren(...[draw(content)].flat());
}

/** Lets `paint` draw everything anew: the same content looks different now. */
export function forgetPainted() {
  painted = new WeakMap();
}

const BADGE_SIGNS = { good: "●", warn: "▲", bad: "■", unknown: "○" };

/** A state in one or two words, told apart by sign and word as well as by colour. */
export function badge(level, words) {
  const sign = html("span", { "aria-hidden": "true" }, BADGE_SIGNS[level]);
  return html("span", { class: `badge ${level}` }, sign, ` ${words}`);
}

/**
 * Shows or hides the page's banner. Only `text` is announced; `detail` may tick.
 * @param {{text: string, detail: string}|null} problem
 */
export function showBanner(problem) {
  const banner = byId("banner");
  banner.hidden = !problem;
  setText(banner.firstElementChild, problem?.text ?? "");
  setText(banner.lastElementChild, problem?.detail ?? "");
}
