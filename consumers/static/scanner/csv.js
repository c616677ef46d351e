// The scanner's table as a file: the coins and columns that are shown, in their order, with raw
// numbers. Text that a spreadsheet would take for a formula is made plain.

import { clock } from "../shared/server.js";

/**
 * Hands the browser the table to save.
 * @param {{columns: Object[], coins: Object[]}} table as table.js has it
 */
export function saveCsv({ columns, coins }) {
  const blob = new Blob([toCsv(columns, coins)], { type: "text/csv" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `scanner-${new Date(clock.now()).toISOString().slice(0, 19).replaceAll(":", "-")}Z.csv`;
  link.click();
  URL.revokeObjectURL(link.href);
}

function toCsv(columns, coins) {
  const records = coins.map((coin) =>
    Object.assign({}, ...columns.map((column) => fieldsOf(column, coin))),
  );
  const names = records.length ? Object.keys(records[0]) : columns.map(({ id }) => id);
  const lines = [names, ...records.map((record) => names.map((name) => record[name]))];
  return lines.map((line) => `${line.map(toField).join(",")}\r\n`).join("");
}

function fieldsOf({ id, value, fields }, coin) {
  return fields ? fields(coin) : { [id]: value(coin) };
}

function toField(value) {
  if (value == null) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+@\t\r-]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
