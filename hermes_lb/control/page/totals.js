// Numbers since the start, or since the counters were cleared: what HAProxy's page has in columns.

import { bytes, count, duration, make, setText } from "./format.js";

const sum = (responses) => Object.values(responses).reduce((total, one) => total + one, 0);

const OF_COUNTERS = {
  requests: (c) => count(sum(c.responses)),
  "4xx": (c) => count(c.responses["4xx"]),
  "5xx": (c) => count(c.responses["5xx"]),
  in: (c) => bytes(c.bytes_in),
  out: (c) => bytes(c.bytes_out),
  retries: (c) => count(c.retries),
  "connect errors": (c) => count(c.connect_errors),
  "cut by client": (c) => count(c.aborted_by_client),
  "cut by server": (c) => count(c.aborted_by_server),
};

const OF_TALLY = {
  "most at a time": (t, most) => count(t.max_in_flight) + (most ? ` of ${count(most)}` : ""),
  "most queued": (t) => count(t.max_queued),
  "most a second": (t) => count(t.max_rate),
  outages: (t) => count(t.downs),
  downtime: (t) => duration(t.downtime),
  "last change": (t, _, now) => (t.changed_at === null ? "–" : `${duration(now - t.changed_at)} ago`),
};

/** Adds up counters of several servers, and of requests without one. */
export function added(all) {
  const total = { responses: {} };
  for (const counters of all) {
    for (const [name, value] of Object.entries(counters)) {
      if (typeof value === "number") total[name] = (total[name] ?? 0) + value;
    }
    for (const [code, value] of Object.entries(counters.responses)) {
      total.responses[code] = (total.responses[code] ?? 0) + value;
    }
  }
  return total;
}

export class Totals {
  constructor() {
    this.values = {};
    this.element = make("dl", { class: "totals" });
    for (const name of [...Object.keys(OF_COUNTERS), ...Object.keys(OF_TALLY), "denied"]) {
      this.values[name] = make("dd", {});
      this.element.append(make("div", {}, make("dt", {}, name), this.values[name]));
    }
  }

  /** `most`: the limit of requests at a time; `denied`: requests that got no server. */
  show(counters, tally, { most = 0, now, denied = null }) {
    for (const [name, text] of Object.entries(OF_COUNTERS)) setText(this.values[name], text(counters));
    for (const [name, text] of Object.entries(OF_TALLY)) {
      setText(this.values[name], tally ? text(tally, most, now) : "–");
    }
    this.values.denied.parentElement.hidden = denied === null;
    if (denied !== null) setText(this.values.denied, count(denied));
  }
}
