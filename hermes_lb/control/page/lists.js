// The overview, the processes, and the lists of what has happened.

import { clock, count, duration, keyed, latency, make, setAttribute, setText } from "./format.js";

const MOST_ROWS = 50;

/** Numbers of the balancer as a whole. */
export class Tiles {
  constructor(parent) {
    this.parent = parent;
    this.values = new Map();
  }

  show(moment) {
    const { backends, frontends } = moment.status;
    const sum = (rows, read) => rows.reduce((total, row) => total + (read(row) ?? 0), 0);
    const available = sum(backends, (b) => b.available);
    const servers = sum(backends, (b) => b.servers);
    const errors = sum(backends, (b) => b.sample.errors);
    const queued = sum(backends, (b) => b.queued);
    this.tile("Requests/s", count(sum(backends, (b) => b.sample.requests)));
    this.tile("Errors/s", count(errors), errors > 0);
    this.tile("In flight", count(sum(backends, (b) => b.in_flight)));
    this.tile("Queued", count(queued), queued > 0);
    const http2 = sum(frontends, (f) => f.http2_connections);
    this.tile("Connections", count(sum(frontends, (f) => f.connections)));
    this.note("Connections", http2 ? `${count(http2)} of HTTP/2, ${count(sum(frontends, (f) => f.http2_streams))} streams` : "");
    const isBroken = backends.some((b) => !b.available);
    this.tile("Servers available", `${available} of ${servers}`, isBroken, available < servers);
  }

  tile(name, text, isAlarming = false, isNotable = false) {
    if (!this.values.has(name)) {
      const value = make("dd", {});
      this.values.set(name, value);
      this.parent.append(make("div", { class: "card" }, make("dt", {}, name), value));
    }
    setText(this.values.get(name), text);
    setAttribute(this.values.get(name), "class", isAlarming ? "alarm" : isNotable ? "notable" : null);
  }

  /** A line below a number. */
  note(name, text) {
    const card = this.values.get(name).parentElement;
    if (!card.querySelector(".note")) card.append(make("dd", { class: "note quiet" }));
    setText(card.querySelector(".note"), text);
  }
}

/** What each frontend asks of a request, in the order in which it is compared. */
export function showRoutes(parent, frontends) {
  const rows = frontends.flatMap((f) => f.routes.map((route) => ({ ...route, frontend: f.name })));
  keyed(parent, rows.map((row, n) => `${row.frontend}-${n}`), () =>
    make("li", {}, make("b", {}), make("span", { class: "quiet" })));
  rows.forEach((row, n) => {
    const [conditions, details] = parent.children[n].children;
    setText(conditions, `${row.frontend}: ${row.conditions}`);
    const streams = ["turns", "resume"].filter((name) => row[name]);
    const rules = row.rules ? [row.rules] : [];
    setText(details, [`→ ${row.backend}`, ...streams, ...rules].join(" · "));
  });
}

/** Of each frontend: what came in, and what it refused. */
export function showFrontends(parent, frontends) {
  keyed(parent, frontends.map((frontend) => frontend.name), () =>
    make("li", {}, make("b", {}), make("span", { class: "quiet" })));
  frontends.forEach((frontend, n) => {
    const [name, details] = parent.children[n].children;
    setText(name, frontend.name);
    setText(details, `${count(frontend.connections)} connections now, ${count(frontend.connections_total)} in all · `
      + `${count(frontend.requests)} requests · ${count(frontend.refused)} denied`);
  });
}

export function showProcesses(parent, processes, now) {
  keyed(parent, processes.map((process) => `${process.number}-${process.pid}`), () =>
    make("li", {}, make("b", {}), make("span", { class: "state" }), make("span", { class: "quiet" })));
  processes.forEach((process, n) => {
    const [name, state, details] = parent.children[n].children;
    setText(name, `Process ${process.number}`);
    setText(state, process.is_draining ? "drain" : "up");
    setAttribute(state, "class", `state ${process.is_draining ? "drain" : "up"}`);
    const lost = process.log_lines_dropped ? ` · ${count(process.log_lines_dropped)} log lines lost` : "";
    setText(details, `pid ${process.pid} · up ${duration(now - process.started_at)} · `
      + `${count(process.connections)} connections · ${count(process.open_files)} of ${count(process.max_files)} files · `
      + `loop lag p99 ${latency(process.loop_lag_p99)}, worst ${latency(process.loop_lag_worst)}${lost}`);
  });
}

// Seconds before it expires: those that the alerts have.
const EXPIRES_SOON = 14 * 86400;
const EXPIRES_NOW = 2 * 86400;

/** The next one to expire first. */
export function showCertificates(card, parent, certificates, now) {
  card.hidden = !certificates.length;
  const sorted = certificates.toSorted((a, b) => a.not_after - b.not_after);
  keyed(parent, sorted.map((one) => `${one.frontend} ${one.file}`), () =>
    make("li", {}, make("b", {}), make("span", {}), make("span", { class: "quiet" })));
  sorted.forEach((one, n) => {
    const [name, expiry, details] = parent.children[n].children;
    const left = one.not_after - now;
    setText(name, one.names.join(", ") || one.file);
    setText(expiry, left <= 0 ? "has expired" : `expires in ${duration(left)}`);
    setAttribute(expiry, "class", left < EXPIRES_NOW ? "alarm" : left < EXPIRES_SOON ? "notable" : null);
    setText(details, `${one.frontend} · ${new Date(1000 * one.not_after).toISOString().slice(0, 10)} · ${one.file}`);
  });
}

/** A list that grows at its top; `row` makes the parts of one entry. */
export class Log {
  constructor(parent, row) {
    this.parent = parent;
    this.row = row;
    this.last = 0;
  }

  add(entries) {
    for (const entry of entries) {
      if (entry.number <= this.last) continue;
      this.last = entry.number;
      this.parent.prepend(make("li", {}, ...this.row(entry)));
    }
    while (this.parent.children.length > MOST_ROWS) this.parent.lastChild.remove();
  }

  clear() {
    this.last = 0;
    this.parent.replaceChildren();
  }
}

export function changeRow(change) {
  return [
    make("time", {}, clock(change.time)),
    make("span", { class: `state ${change.state}` }, change.state),
    make("span", {}, make("b", {}, change.server), make("span", { class: "quiet" }, ` in ${change.backend}`)),
    make("span", { class: "quiet why" }, change.because),
  ];
}

export function abortRow(abort) {
  const where = abort.server ? `${abort.backend}/${abort.server}` : (abort.backend ?? abort.frontend);
  return [
    make("time", {}, clock(abort.at)),
    make("code", { class: "termination" }, abort.termination),
    make("span", {}, make("b", {}, where), make("span", { class: "quiet" },
      ` ${abort.status > 0 ? abort.status : "no status"} after ${latency(abort.duration_ms / 1000)}, from ${abort.client}`)),
    make("span", { class: "why" }, make("span", { class: "means" }, abort.means),
      make("code", { class: "request" }, abort.request)),
  ];
}
