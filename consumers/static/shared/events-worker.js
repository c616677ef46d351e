// The one connection to the server's events that all tabs of a browser share: a browser has six
// connections a host. A SharedWorker; server.js is at the other end of its ports.
//
// It lives on while any tab is open, through upgrades too. So what passes through the ports stays
// as it is, or this file gets another name.

import { EventStream, SIGNS } from "./event-stream.js";

const names = new Map(); // of the events that a tab wants, by port; only of tabs that listen

const stream = new EventStream((name, data) => {
  for (const [port, wanted] of names) {
    if (wanted.includes(name) || SIGNS.includes(name)) port.postMessage([name, data]);
  }
});

/** A tab says which events it wants to hear from now on, or null when it stops listening. */
function follow(port, wanted) {
  if (wanted) {
    names.set(port, wanted);
    stream.want(wanted);
    if (stream.isOpen) port.postMessage(["open"]);
    stream.open();
  } else {
    names.delete(port);
    if (!names.size) stream.close();
  }
}

addEventListener("connect", ({ ports: [port] }) => {
  port.onmessage = ({ data }) => follow(port, data);
});
