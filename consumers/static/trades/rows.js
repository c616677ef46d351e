// Tables whose rows stay the same elements while their items are listed, so that focus and
// selection stay too. Knows nothing of what the items are.

import { html, missing, paint } from "../shared/dom.js";

/**
 * A table with a row an item.
 *
 * A column has `id`, `label`, `content(item)`, all that its cell shows, as JSON can hold it, or
 * null; `draw(content)`, nodes of it, unless it is text; `reason(item)`, why it is null; `isNumber`;
 * `isTime`, whose header names the time zone.
 * The first column names the row.
 */
export class Rows {
  #columns;
  #body;
  #rows = new Map(); // by key

  constructor(table, columns) {
    this.#columns = columns;
    this.#body = table.tBodies[0];
    const headers = columns.map(({ id, label, isNumber, isTime }) => {
      const zone = isTime ? [", ", html("span", { "data-zone": true })] : [];
      const attributes = { "data-column": id, class: isNumber ? "number" : null };
      return html("th", { scope: "col", ...attributes }, label, ...zone);
    });
    table.tHead.replaceChildren(html("tr", {}, ...headers));
  }

  /** @param {function(Object): string} keyOf tells an item from the others */
  show(items, keyOf) {
    const listed = new Set(items.map(keyOf));
    for (const [key, row] of this.#rows) {
      if (listed.has(key)) continue;
      row.remove();
      this.#rows.delete(key);
    }
    this.#arrange(items.map((item) => this.#showItem(keyOf(item), item)));
  }

  #showItem(key, item) {
    const row = this.#rows.get(key) ?? this.#addRow(key);
    for (const [index, { content, draw, reason }] of this.#columns.entries()) {
      const value = content(item);
      const shown = value ?? { missing: reason(item) };
      paint(row.cells[index], shown, () => {
        if (value === null) return missing(shown.missing);
        return draw ? draw(value) : String(value);
      });
    }
    return row;
  }

  #addRow(key) {
    const cells = this.#columns.map(({ id, label, isNumber }, index) => {
      const attributes = { "data-column": id, class: isNumber ? "number" : null };
      if (index === 0) return html("th", { ...attributes, scope: "row" });
      return html("td", { ...attributes, "data-label": label });
    });
    const row = html("tr", { "data-key": key }, ...cells);
    this.#rows.set(key, row);
    return row;
  }

  /** Puts rows in order without moving the one that has the focus: a moved element would lose it. */
  #arrange(ordered) {
    let next = null;
    for (const row of ordered.toReversed()) {
      const isInPlace = row.isConnected && row.nextElementSibling === next;
      if (!isInPlace && !row.contains(document.activeElement)) this.#body.insertBefore(row, next);
      next = row;
    }
  }
}
