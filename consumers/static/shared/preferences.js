// What a user prefers, kept by this browser: theme, time zone, columns, favourites and the like. A
// value is anything that JSON can hold; other tabs hear of a change, too.

const PREFIX = "coinex:"; // other programs on this host may keep things in the same storage
const subscribers = new Map(); // callbacks by name

/**
 * The stored value of `name`. Where there is none, or storage is forbidden, or what is stored is
 * broken or of another type than `fallback`, it is `fallback`.
 */
export function preference(name, fallback) {
  try {
    const stored = JSON.parse(localStorage.getItem(PREFIX + name));
    return fallback === null || isAlike(stored, fallback) ? (stored ?? fallback) : fallback;
  } catch {
    return fallback;
  }
}

/** Stores `value` and hands it to whoever subscribed; where storage is forbidden it holds until the
 *  page is left. */
export function setPreference(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // Full or forbidden: the page works without.
  }
  tell(name, value);
}

/** Calls `callback(value)` at each change of `name`, of this tab or of another one. */
export function onPreference(name, callback) {
  subscribers.set(name, [...(subscribers.get(name) ?? []), callback]);
}

function tell(name, value) {
  for (const callback of subscribers.get(name) ?? []) callback(value);
}

function isAlike(a, b) {
  return a !== null && typeof a === typeof b && Array.isArray(a) === Array.isArray(b);
}

window.addEventListener("storage", ({ key, newValue }) => {
  if (!key?.startsWith(PREFIX) || newValue === null) return;
  try {
    tell(key.slice(PREFIX.length), JSON.parse(newValue));
  } catch {
    // Not written by a page of ours.
  }
});
