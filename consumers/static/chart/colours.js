// The chart's colours, as the style sheet has them for the present theme: a canvas knows no custom
// properties.

const NAMES = ["surface", "raised", "line", "edge", "text", "muted", "accent", "up", "down", "warn"];

/**
 * The value of each custom property of NAMES inside `element`, as "rgb(…)".
 * @returns {Object<string, string>} by name, without the dashes
 */
export function readColours(element) {
  const probe = document.createElement("span");
  element.append(probe);
  const colours = {};
  for (const name of NAMES) {
    probe.style.color = `var(--${name})`;
    colours[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return colours;
}

/** The same colour, `alpha` from 0 (not to be seen) to 1. */
export function fade(colour, alpha) {
  return colour.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);
}

/** Calls `change` whenever the browser goes from light to dark or back. */
export function onThemeChange(change) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", change);
}
