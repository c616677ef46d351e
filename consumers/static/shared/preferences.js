// What the user chose, kept by the browser. A browser that keeps nothing, or has kept something
// broken, gives the fallback.

const subscribers = new Map(); // callbacks by name

/** The stored value of a name, or the fallback. */
export function preference(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? fallback;
  } catch {
    return fallback;
  }
}

/** Stores a value, anything that JSON can hold, and hands it to who subscribed to the name. */
export function setPreference(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // Storage is full or forbidden: the choice lasts as long as the page.
  }
  for (const callback of subscribers.get(name) ?? []) callback(value);
}

/** Calls `callback(value)` after each change of the name on this page. */
export function onPreference(name, callback) {
  subscribers.set(name, [...(subscribers.get(name) ?? []), callback]);
}
