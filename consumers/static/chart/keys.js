// The keys of the chart. They move the crosshair, whose candle is then read aloud.

const STEPS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
const ZOOMS = { "+": 0.8, "=": 0.8, "-": 1.25 };

/**
 * @param {HTMLElement} host has the focus
 * @param {HTMLElement} readout live while it has
 * @param {ChartView} view
 */
export function listenToKeys(host, readout, view) {
  host.addEventListener("keydown", (event) => {
    const isKnown = event.key in STEPS || event.key in ZOOMS;
    if (!isKnown || event.ctrlKey || event.metaKey || event.altKey || !view.isShown) return;
    event.preventDefault();
    if (event.key in STEPS) view.movePointer(STEPS[event.key]);
    else view.zoom(ZOOMS[event.key]);
  });
  // Keys are answered aloud; what the pointer or a refresh changes is not.
  host.addEventListener("focus", () => readout.setAttribute("aria-live", "polite"));
  host.addEventListener("blur", () => {
    readout.removeAttribute("aria-live");
    view.dropPointer();
  });
}
