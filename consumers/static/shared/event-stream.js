// The connection to the server's events. Runs in the worker that all tabs of a browser share or,
// where there is none, in the tab.

const SILENT_AFTER_MS = 6_000; // the server sends a heartbeat every 2 s
const RETRY_MS = 2_000;
const CHECK_MS = 1_000;

/** What is told besides events: a (re)connection, that it was lost, that it is alive. */
export const SIGNS = ["open", "lost", "heartbeat"];

/**
 * Is opened again whenever it is lost: when it ends, and when no heartbeat comes, as over a line
 * that was cut without a word or after the sleep of a laptop.
 */
export class EventStream {
  #tell;
  #names = new Set();
  #source = null;
  #heardAt = 0; // or tried to connect
  #timer = 0;

  /**
   * @param {function(string, *)} tell is handed the name and the data of each event, or a sign
   */
  constructor(tell) {
    this.#tell = tell;
    this.want(["heartbeat"]);
  }

  get isOpen() {
    return this.#source?.readyState === EventSource.OPEN;
  }

  /** Passes events with these names on, too. */
  want(names) {
    for (const name of names) {
      if (this.#names.has(name)) continue;
      this.#names.add(name);
      this.#source?.addEventListener(name, this.#pass);
    }
  }

  open() {
    if (this.#timer) return;
    this.#timer = setInterval(() => this.#check(), CHECK_MS);
    this.#connect();
  }

  close() {
    clearInterval(this.#timer);
    this.#timer = 0;
    this.#source?.close();
    this.#source = null;
  }

  #connect() {
    this.#heardAt = Date.now();
    this.#source = new EventSource("/api/events");
    this.#source.onopen = () => {
      this.#heardAt = Date.now();
      this.#tell("open");
    };
    this.#source.onerror = () => this.#lose();
    for (const name of this.#names) this.#source.addEventListener(name, this.#pass);
  }

  #pass = ({ type, data }) => {
    this.#heardAt = Date.now();
    this.#tell(type, JSON.parse(data));
  };

  #lose() {
    this.#source.close();
    this.#source = null;
    this.#tell("lost");
  }

  #check() {
    const silentMs = Math.abs(Date.now() - this.#heardAt); // the clock may be set back
    if (this.#source && silentMs > SILENT_AFTER_MS) this.#lose();
    if (!this.#source && silentMs > RETRY_MS) this.#connect();
  }
}
