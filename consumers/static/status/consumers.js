// The list of consumers on the status page: who is alive, and how to start who is not.

import { badge, byId, html, paint, setText } from "../shared/dom.js";
import { formatAge } from "../shared/format.js";
import { clock } from "../shared/server.js";

const MODULES = {
  scanner: "consumers.dashboard", // which runs the scanner
  "ta-service": "consumers.ta_service",
  "trader-bot": "consumers.paper_trader",
  dashboard: "consumers.dashboard",
};

/** Consumers report to Redis: while it does not answer, nobody knows whether they are alive. */
export function showConsumers(consumers, isRedisUp) {
  const list = byId("consumers");
  const names = Object.keys(consumers ?? MODULES);
  paint(list, names, () => names.map(drawConsumer));
  for (const item of list.children) {
    const { consumer } = item.dataset;
    const [state, seen, start] = item.querySelectorAll(".state, .seen, .start");
    const heartbeat = consumers?.[consumer];
    const [level, words] = isRedisUp ? consumerState(heartbeat) : ["unknown", "not known"];
    paint(state, words, () => badge(level, words));
    setText(seen, heartbeat ? describeHeartbeat(heartbeat) : "");
    start.hidden = !isRedisUp || !MODULES[consumer] || Boolean(heartbeat?.alive);
  }
}

function drawConsumer(consumer) {
  const module = MODULES[consumer];
  const unit = `coinex-consumer@${module?.split(".")[1]}`;
  const start = html(
    "span",
    { class: "start", hidden: true },
    ...["installed: ", html("code", {}, `systemctl --user restart ${unit}`)],
    ...["; by hand: ", html("code", {}, `.venv/bin/python -m ${module}`)],
  );
  return html(
    "li",
    { "data-consumer": consumer },
    html("b", {}, consumer),
    html("span", { class: "state" }),
    html("span", { class: "seen" }),
    start,
  );
}

function consumerState(heartbeat) {
  if (!heartbeat) return ["unknown", "never seen"];
  return heartbeat.alive ? ["good", "alive"] : ["bad", "silent"];
}

function describeHeartbeat({ timestamp, pid }) {
  return `seen ${formatAge(clock.now() - timestamp)} ago, pid ${pid}`;
}
