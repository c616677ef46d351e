// The server's events as a page hears them: over the connection that all tabs share or, where the
// browser has no SharedWorker, over one of its own.

import { EventStream } from "./event-stream.js";

const WORKER = "/static/shared/events-worker.js";
const ANSWER_WITHIN_MS = 10_000; // of a worker: longer than it waits for a server that is silent
const SILENT_AFTER_MS = 8_000; // more than the connection takes to notice that it is lost

let heardAt = -Infinity;

/** Whether events arrive, or would if there were any: a heartbeat came a moment ago. */
export function isLive() {
  return Math.abs(Date.now() - heardAt) < SILENT_AFTER_MS;
}

/**
 * Listens to the server's events for as long as the page lives, but not while it is hidden.
 * @param {Object<string, function(*)>} handlers by event name; each is handed the event's data
 * @param {function()} onOpen after each (re)connection, and when the page is shown again: what
 *   happened before it was missed
 */
export function listen(handlers, onOpen) {
  const names = Object.keys(handlers);
  const receive = (name, data) => {
    heardAt = name === "lost" ? -Infinity : Date.now();
    if (name === "open") onOpen();
    else handlers[name]?.(data);
  };
  let line = window.SharedWorker ? shareLine(names, receive, useOwn) : makeOwnLine(names, receive);

  function useOwn() {
    line = makeOwnLine(names, receive);
    follow();
  }

  function follow() {
    if (document.hidden) {
      line.leave();
      heardAt = -Infinity;
    } else line.join();
  }

  document.addEventListener("visibilitychange", follow);
  follow();
}

/**
 * A line through the shared worker. `onFailure` is called once if the browser cannot run it: not each
 * tab is told of that, but a worker that runs soon says something, if only "lost".
 */
function shareLine(names, receive, onFailure) {
  const worker = new SharedWorker(WORKER, { type: "module" });
  let isDecided = false; // whether it runs or not
  let timer = 0;
  const join = () => {
    worker.port.postMessage(names);
    if (!isDecided) timer ||= setTimeout(fail, ANSWER_WITHIN_MS);
  };
  const leave = () => worker.port.postMessage(null);
  const fail = () => {
    if (isDecided) return;
    isDecided = true;
    worker.port.close();
    onFailure();
  };
  worker.onerror = fail;
  worker.port.onmessage = ({ data: [name, data] }) => {
    isDecided = true;
    clearTimeout(timer);
    receive(name, data);
  };
  return { join, leave };
}

function makeOwnLine(names, receive) {
  const stream = new EventStream(receive);
  stream.want(names);
  return { join: () => stream.open(), leave: () => stream.close() };
}
