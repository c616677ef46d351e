// What the user has chosen to see in the chart, and the buttons for it. The browser keeps it.

import { byId, html } from "../shared/dom.js";
import { onPreference, preference, setPreference } from "../shared/preferences.js";

const INDICATORS = "chart.indicators";
const ZONE = "timeZone"; // that of all pages
const SCALE = "chart.scale";

const ZONES = { utc: "UTC", local: "Local" };
const SCALES = { linear: "Linear", log: "Log", percent: "%" };

/**
 * The buttons of the chart.
 * @param {{id: string, label: string, title?: string}[]} layers each to be switched on and off
 * @param {function()} onChange called after each choice
 */
export class Choices {
  #shown; // by id of a layer
  zone;
  scale;

  constructor(layers, onChange) {
    const stored = preference(INDICATORS, {});
    this.#shown = Object.fromEntries(layers.map(({ id }) => [id, stored[id] !== false]));
    this.zone = known(ZONES, preference(ZONE, "utc"), "utc");
    this.scale = known(SCALES, preference(SCALE, "linear"), "linear");
    const draw = () => {
      this.#draw(layers);
      onChange();
    };
    onPreference(INDICATORS, (shown) => draw((this.#shown = shown)));
    onPreference(ZONE, (zone) => draw((this.zone = zone)));
    onPreference(SCALE, (scale) => draw((this.scale = scale)));
    this.#draw(layers);
  }

  shows(id) {
    return this.#shown[id];
  }

  #draw(layers) {
    drawButtons(byId("chart-layers"), layers, {
      isPressed: ({ id }) => this.shows(id),
      press: ({ id }) => setPreference(INDICATORS, { ...this.#shown, [id]: !this.shows(id) }),
    });
    drawButtons(byId("chart-zone"), options(ZONES), {
      isPressed: ({ id }) => id === this.zone,
      press: ({ id }) => setPreference(ZONE, id),
    });
    drawButtons(byId("chart-scale"), options(SCALES), {
      isPressed: ({ id }) => id === this.scale,
      press: ({ id }) => setPreference(SCALE, id),
    });
  }
}

function known(values, value, fallback) {
  return Object.hasOwn(values, value) ? value : fallback;
}

function options(labels) {
  return Object.entries(labels).map(([id, label]) => ({ id, label }));
}

/** Makes the buttons at first, then only presses them, so that the focus stays where it is. */
function drawButtons(group, items, { isPressed, press }) {
  if (!group.children.length) group.append(...items.map((item) => drawButton(item)));
  for (const [at, item] of items.entries()) {
    const button = group.children[at];
    button.setAttribute("aria-pressed", isPressed(item));
    button.onclick = () => press(item);
  }
}

function drawButton({ id, label, title }) {
  return html("button", { type: "button", title, "data-id": id }, label);
}
