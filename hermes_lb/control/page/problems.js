// Which servers an operator has to look at, the worst first; as `ctl top` ranks them.

import { count, keyed, make, plural, setAttribute, setText } from "./format.js";

const BY_STATE = { down: 6, ejected: 5, failing: 4, degraded: 3, maint: 2, drain: 2 };
const MOST_SHOWN = 12;

/** Badness from which a backend is opened. */
export const NOTABLE = 3;

/** 0: nothing to see. As `badness` in ctl/top.py. */
export function badness(server) {
  const isBusy = server.queued > 0 || (server.max_connections > 0 && server.in_flight >= server.max_connections);
  const fails = (server.sample.errors ?? 0) > 0;
  return Math.max(BY_STATE[server.state] ?? 0, fails ? 3 : 0, isBusy ? 1 : 0);
}

function what(server) {
  if (BY_STATE[server.state]) return server.because || server.state;
  if ((server.sample.errors ?? 0) > 0) return `${count(server.sample.errors)} errors a second`;
  return server.queued ? `${plural(server.queued, "request")} in its queue` : "full";
}

/** The list at the top of the page: a link to each server that has a problem. */
export class Problems {
  constructor(title, list, more) {
    Object.assign(this, { title, list, more });
  }

  show(servers, link) {
    const found = servers.map((server) => [badness(server), server]).filter(([rank]) => rank > 1);
    found.sort(([a], [b]) => b - a);
    const counts = new Map();
    for (const [, server] of found) {
      const kind = BY_STATE[server.state] ? server.state : "with errors";
      counts.set(kind, (counts.get(kind) ?? 0) + 1);
    }
    const words = [...counts].map(([state, number]) => `${number}\u00a0${state}`).join(", ");
    setText(this.title, found.length ? `Problems: ${words}` : "No problems");
    setAttribute(this.title, "class", found.some(([rank]) => rank > 3) ? "alarm" : found.length ? "notable" : null);
    const shown = found.slice(0, MOST_SHOWN).map(([, server]) => server);
    keyed(this.list, shown.map((server) => `${server.backend}/${server.name}`), (key) =>
      make("li", {}, make("a", { href: link(key) }, key), make("span", { class: "state" }), make("span", { class: "quiet" })));
    shown.forEach((server, n) => {
      const [, state, why] = this.list.children[n].children;
      setText(state, server.state);
      setAttribute(state, "class", `state ${server.state === "up" && !server.checked ? "unchecked" : server.state}`);
      setText(why, what(server));
    });
    const rest = found.length - shown.length;
    setText(this.more, rest > 0 ? `and ${rest} more: show the state “problems” below` : "");
  }
}
