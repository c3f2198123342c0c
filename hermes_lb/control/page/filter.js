// Which servers are shown, in which order and how; kept in the page's address, for links.

import { badness } from "./problems.js";

const DEFAULTS = { q: "", state: "", sort: "problems", view: "live", server: "" };

const number = (read) => (a, b) => (read(b) ?? 0) - (read(a) ?? 0);
const SORTS = {
  problems: number(badness),
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
  flight: number((s) => s.in_flight),
  requests: number((s) => s.sample.requests),
  errors: number((s) => s.sample.errors),
  p95: number((s) => s.sample.latency_p95),
  queued: number((s) => s.queued),
  downtime: number((s) => s.tally?.downtime),
};

export class Filter {
  constructor() {
    this.read();
  }

  read() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const [key, value] of Object.entries(DEFAULTS)) this[key] = given.get(key) ?? value;
    if (!SORTS[this.sort]) this.sort = DEFAULTS.sort;
  }

  set(key, value) {
    this[key] = value;
    history.replaceState(null, "", `${location.pathname}${this.address(this)}`);
  }

  /** The address of the page with these values. */
  address(values) {
    const given = new URLSearchParams();
    for (const [key, value] of Object.entries(DEFAULTS)) {
      if ((values[key] ?? value) !== value) given.set(key, values[key]);
    }
    return given.size ? `#${given}` : "";
  }

  link(server) {
    return this.address({ ...this, q: "", state: "", server }) || "#";
  }

  get isOn() {
    return this.q !== "" || this.state !== "";
  }

  fits(server) {
    if (this.state === "problems" ? badness(server) < 2 : this.state && server.state !== this.state) return false;
    if (!this.q) return true;
    const text = `${server.backend}/${server.name} ${server.address} ${server.because}`.toLowerCase();
    return this.q.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }

  /** Of one backend: those that fit, in order; equal ones as configured. */
  apply(servers) {
    return servers.filter((server) => this.fits(server)).sort(SORTS[this.sort]);
  }
}
