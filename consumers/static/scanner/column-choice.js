// Which columns are shown: as many as the window has room for, unless the user chose otherwise.

import { html, paint } from "../shared/dom.js";
import { onPreference, preference, setPreference } from "../shared/preferences.js";

const PHONE_PX = 768; // below it rows are cards, which have room for what windows always have
const ON_PHONES_UP_TO_PX = 1050;

const boxes = html("div", { class: "boxes" });
let known = [];
let chosen = preference("columns", {}); // true or false by id; what is not there goes by the width

/** Those of `columns` to show now. The first one always is. */
export function chooseColumns(columns) {
  known = columns.slice(1);
  showBoxes();
  return [columns[0], ...known.filter(isShown)];
}

/** The setting: a box for each column. */
export function columnSetting() {
  const reset = html("button", { type: "button", class: "plain" }, "As the window allows");
  reset.addEventListener("click", () => setPreference("columns", {}));
  return html("fieldset", {}, html("legend", {}, "Columns"), boxes, reset);
}

/** Calls `callback` when other columns may have to be shown. */
export function onColumns(callback) {
  onPreference("columns", (value) => {
    chosen = value;
    callback();
  });
  window.addEventListener("resize", callback);
}

function isShown({ id, from = 0 }) {
  const width = window.innerWidth;
  return chosen[id] ?? from <= (width < PHONE_PX ? ON_PHONES_UP_TO_PX : width);
}

function showBoxes() {
  paint(boxes, known.map(({ id }) => id), () => known.map(drawBox));
  for (const box of boxes.querySelectorAll("input")) {
    box.checked = isShown(known.find(({ id }) => id === box.value));
  }
}

function drawBox({ id, name, label }) {
  const box = html("input", { type: "checkbox", value: id });
  box.addEventListener("change", () => setPreference("columns", { ...chosen, [id]: box.checked }));
  return html("label", {}, box, ` ${name ?? label}`);
}
