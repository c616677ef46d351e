// The coins with a star: they come first in the table, or alone, and their signals may be notified
// of.

import { onPreference, preference, setPreference } from "../shared/preferences.js";

let favourites = new Set(preference("favourites", []));
let alone = preference("favourites-alone", false);

export function isFavourite(symbol) {
  return favourites.has(symbol);
}

export function toggleFavourite(symbol) {
  const others = [...favourites].filter((each) => each !== symbol);
  setPreference("favourites", isFavourite(symbol) ? others : [...others, symbol]);
}

/** Whether the other coins are left out. */
export function areFavouritesAlone() {
  return alone;
}

export function toggleFavouritesAlone() {
  setPreference("favourites-alone", !alone);
}

/** Calls `callback` after each change, of another tab, too. */
export function onFavourites(callback) {
  onPreference("favourites-alone", (areAlone) => {
    alone = areAlone;
    callback();
  });
  onPreference("favourites", (symbols) => {
    favourites = new Set(symbols);
    callback();
  });
}
