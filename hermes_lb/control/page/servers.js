// One backend: its charts, and its servers with their states and buttons.

import { send, serverPath } from "./api.js";
import { Chart, Sparkline, Strip } from "./charts.js";
import { confirm } from "./dialogs.js";
import { count, duration, keepOnly, keyed, lastOf, latency, make, meanOfLast, plural, setAttribute, setText } from "./format.js";
import { NOTABLE, badness } from "./problems.js";
import { Totals, added } from "./totals.js";

const PERCENTILES = (what) => [
  { field: `${what}_p50`, name: "p50", style: "p50" },
  { field: `${what}_p95`, name: "p95", style: "p95" },
  { field: `${what}_p99`, name: "p99", style: "p99" },
];

const CHARTS = [
  {
    title: "Requests a second", format: count, least: 1,
    series: [
      { field: "requests", name: "ended", style: "requests filled" },
      { field: "errors", name: "errors", style: "errors" },
    ],
  },
  { title: "Latency", format: latency, least: 0.001, series: PERCENTILES("latency") },
  { title: "Time to first byte", format: latency, least: 0.001, series: PERCENTILES("first_byte") },
  {
    title: "At a time", format: count, least: 1,
    series: [
      { field: "in_flight", name: "in flight", style: "in-flight filled" },
      { field: "queued", name: "queued", style: "queued" },
    ],
  },
];

const STATES = {
  ready: {
    title: (name) => `Make ${name} ready?`, action: "Make ready",
    text: () => "It takes new requests again as soon as its checks are good, with a slow start if it has one.",
  },
  drain: {
    title: (name) => `Drain ${name}?`, action: "Drain",
    text: (server) => "It gets no new sessions. Those that are pinned to it still come, and what runs goes on: "
      + `${plural(server.in_flight, "request")} now.`,
  },
  maint: {
    title: (name) => `Put ${name} into maintenance?`, action: "Put into maintenance", danger: true,
    text: (server) => "It gets no new requests at all: its pinned sessions go to other servers. What runs goes on: "
      + `${plural(server.in_flight, "request")} now.`,
  },
};

const COLUMNS = ["Server", "State", "", "In flight", "Requests/s", "Errors/s", "p95", "First byte p95", "Control"];

// Rows that are shown at first, and more at each click.
const SOME_ROWS = 50;

/** Whether an element is on the screen, or near: others need not be drawn. */
class Nearness {
  constructor(element, onNear) {
    this.isNear = false;
    new IntersectionObserver(([entry]) => {
      this.isNear = entry.isIntersecting;
      if (this.isNear) onNear();
    }, { rootMargin: "300px" }).observe(element);
  }
}

export class BackendCard {
  constructor(name, states, filter, onChanged) {
    Object.assign(this, { name, states, filter, onChanged });
    this.most = SOME_ROWS;
    this.isOpen = null; // null: by its problems
    this.wanted = ""; // a server that is shown in any case
    this.charts = CHARTS.map((chart) => new Chart(chart));
    this.summary = make("p", { class: "quiet" });
    this.rows = make("ul", { class: "servers" });
    this.views = new Map();
    this.more = make("button", { type: "button", class: "more" });
    this.more.addEventListener("click", () => { this.most += SOME_ROWS; this.draw(); });
    this.totals = new Totals();
    const title = `backend-${name}`;
    const body = `servers-${name}`;
    this.toggle = make("button", { type: "button", class: "toggle", "aria-controls": body }, name);
    this.toggle.addEventListener("click", () => { this.setOpen(this.body.hidden); this.draw(); });
    this.body = make("div", { id: body },
      make("div", { class: "charts" }, ...this.charts.map((chart) => chart.element)),
      this.totals.element,
      make("div", { class: "head", "aria-hidden": "true" }, ...COLUMNS.map((column) => make("span", {}, column))),
      this.rows, this.more);
    this.element = make("section", { class: "card backend", "aria-labelledby": title },
      make("header", {}, make("h2", { id: title }, this.toggle), this.summary), this.body);
    this.near = new Nearness(this.element, () => this.draw());
  }

  setOpen(isOpen) {
    this.isOpen = isOpen;
  }

  /** Shows a server, whatever the filter says -> false if there is none of that name. */
  reveal(name) {
    if (!this.servers?.some((server) => server.name === name)) return false;
    this.isOpen = true;
    this.wanted = name;
    this.near.isNear = true;
    this.draw();
    const row = this.views.get(name).element;
    row.scrollIntoView({ block: "center" });
    for (const other of document.querySelectorAll(".server.wanted")) other.classList.remove("wanted");
    row.classList.add("wanted");
    return true;
  }

  /** -> how many servers pass the filter. */
  show(backend, servers, { store, now, isLarge }) {
    Object.assign(this, { backend, servers, store, now });
    this.found = this.filter.apply(servers);
    const isWorth = !isLarge || servers.some((server) => badness(server) >= NOTABLE);
    const isOpen = this.isOpen ?? (this.filter.isOn || isWorth);
    if (this.body.hidden === isOpen) this.body.hidden = !isOpen;
    this.element.hidden = this.filter.isOn && !this.found.length;
    setAttribute(this.toggle, "aria-expanded", isOpen);
    this.summarise(backend);
    if (this.near.isNear || !isLarge) this.draw();
    return this.found.length;
  }

  summarise(backend) {
    const usable = `${backend.available} of ${plural(backend.servers, "server")} available`;
    const waits = backend.queued ? `, ${count(backend.queued)} queued` : "";
    setText(this.summary, `${usable}, ${count(backend.in_flight)} in flight${waits}${resumes(backend.resumes)}`);
    setAttribute(this.summary, "class", backend.available ? "quiet" : "alarm"); // nobody serves
  }

  draw() {
    if (!this.backend) return;
    if (this.isOpen !== null) {
      this.body.hidden = !this.isOpen;
      setAttribute(this.toggle, "aria-expanded", this.isOpen);
    }
    if (this.body.hidden) return;
    const { backend, store, now, filter } = this;
    const isLive = filter.view === "live";
    if (isLive) {
      for (const chart of this.charts) chart.show(store.times, store.of(this.name), now, store.seconds);
    } else {
      const counters = added([backend.unserved, ...this.servers.map((server) => server.counters)]);
      const denied = Object.values(backend.unserved.responses).reduce((sum, one) => sum + one, 0);
      this.totals.show(counters, backend.tally, { now, denied });
    }
    const shown = this.chosen();
    const names = shown.map((server) => server.name);
    keepOnly(this.views, names);
    keyed(this.rows, names, (name) => {
      const row = new ServerRow(this.name, name, this.states, filter, this.onChanged);
      this.views.set(name, row);
      return row.element;
    });
    const isMany = shown.length > SOME_ROWS / 2;
    this.rows.classList.toggle("dense", isMany);
    for (const server of shown) this.views.get(server.name).show(server, store, now, isMany);
    const rest = this.found.length - shown.length;
    this.more.hidden = rest <= 0;
    setText(this.more, `Show more: ${plural(rest, "server")} left`);
  }

  /** The first of them; the order stays while one of them has the focus. */
  chosen() {
    let found = this.found;
    if (this.rows.contains(document.activeElement)) {
      const places = new Map([...this.views.keys()].map((name, place) => [name, place]));
      found = found.toSorted((a, b) => (places.get(a.name) ?? 1e9) - (places.get(b.name) ?? 1e9));
    }
    const shown = found.slice(0, this.most);
    const wanted = this.servers.find((server) => server.name === this.wanted);
    if (wanted && !shown.includes(wanted)) shown.unshift(wanted);
    return shown;
  }
}

/** What became of streams whose server was lost, if there were any. */
function resumes(outcomes) {
  const resumed = outcomes.resumed + outcomes.handed_over + outcomes.moved;
  const cut = outcomes.gave_up + outcomes.gone + outcomes.not_resumable;
  if (!resumed && !cut) return "";
  return `, ${plural(resumed, "stream")} resumed${cut ? `, ${count(cut)} cut` : ""}`;
}

/** Why a server is in its state, and for how long if that is known. */
function why(server, now) {
  if (server.ejected) return `${server.because}; back in ${duration(server.ejected.seconds_left)}`;
  if (server.drain && ["drain", "maint"].includes(server.state)) {
    return `${server.because}, ${duration(now - server.drain.since)} ago`;
  }
  if (server.state === "up" && server.weight < server.full_weight) {
    return `slow start: ${Math.round((100 * server.weight) / server.full_weight)} % of its weight`;
  }
  return server.because;
}

class ServerRow {
  constructor(backend, name, states, filter, onChanged) {
    Object.assign(this, { backend, name, filter, onChanged });
    this.address = make("span", { class: "quiet" });
    this.backup = make("span", { class: "badge", hidden: true }, "backup");
    this.state = make("span", { class: "state" });
    this.because = make("span", { class: "quiet because" });
    this.strip = new Strip(states);
    this.flight = make("b", {});
    this.flightMore = make("span", { class: "quiet" });
    this.progress = make("progress", { hidden: true });
    this.requests = make("b", {});
    this.spark = new Sparkline();
    this.errors = make("b", {});
    this.latency = make("b", {});
    this.totals = new Totals();
    this.firstByte = make("b", {});
    this.buttons = Object.fromEntries(Object.keys(STATES).map((state) => [state,
      make("button", { type: "button", value: state, "aria-pressed": "false" }, state)]));
    for (const button of Object.values(this.buttons)) {
      button.addEventListener("click", () => this.setState(button.value));
    }
    this.weight = make("button", { type: "button", class: "weight" });
    this.weight.addEventListener("click", () => this.setWeight());
    const cell = (label, ...content) => make("div", { class: "cell", "data-label": label }, ...content);
    this.element = make("li", { class: "server", "aria-label": `server ${name}` },
      make("div", { class: "cell who" },
        make("span", {}, make("a", { class: "name", href: filter.link(`${backend}/${name}`) }, make("b", {}, name)), this.backup),
        this.address),
      make("div", { class: "cell condition" }, this.state, this.because),
      make("div", { class: "cell past" }, this.strip.svg),
      cell("In flight", make("span", {}, this.flight, this.flightMore), this.progress),
      cell("Requests/s", this.requests, this.spark.svg),
      cell("Errors/s", this.errors),
      cell("p95", this.latency),
      cell("First byte p95", this.firstByte),
      this.totals.element,
      make("div", { class: "cell control" },
        make("div", { class: "segments", role: "group", "aria-label": `state of ${name}` }, ...Object.values(this.buttons)),
        this.weight));
  }

  show(server, store, now, isMany) {
    Object.assign(this, { server, store, now });
    if (isMany && this.near === undefined) this.near = new Nearness(this.element, () => this.draw());
    if (!isMany || !this.isDrawn || this.near.isNear) this.draw();
  }

  draw() {
    const { server, store, now } = this;
    this.isDrawn = true;
    const isFound = server.source !== "config";
    setText(this.address, isFound ? `${server.address} (${server.source})` : server.address);
    this.backup.hidden = !server.backup;
    setText(this.state, server.state);
    const isAssumed = server.state === "up" && !server.checked;
    setAttribute(this.state, "class", `state ${isAssumed ? "unchecked" : server.state}`);
    setText(this.because, why(server, now));
    setAttribute(this.because, "title", this.because.textContent);
    for (const [state, button] of Object.entries(this.buttons)) {
      setAttribute(button, "aria-pressed", server.admin === state);
    }
    setText(this.weight, `weight ${server.full_weight}`);
    setAttribute(this.weight, "aria-label", `weight of ${this.name}: ${server.full_weight}`);
    if (this.filter.view === "totals") {
      this.totals.show(server.counters, server.tally, { most: server.max_connections, now });
      return;
    }
    const past = store.of(`${this.backend}/${this.name}`);
    this.strip.show(store.times, past.state ?? [], now, store.seconds);
    this.spark.show(store.times, past.requests ?? [], now, store.seconds);
    this.numbers(server, past);
    this.drains(server);
  }

  numbers(server, past) {
    const recent = (field) => past[field] ?? [];
    setText(this.flight, count(server.in_flight));
    const most = server.max_connections ? ` / ${count(server.max_connections)}` : "";
    setText(this.flightMore, most + (server.queued ? ` +${count(server.queued)} queued` : ""));
    setText(this.requests, count(meanOfLast(recent("requests"), 5)));
    const errors = meanOfLast(recent("errors"), 5);
    setText(this.errors, count(errors));
    setAttribute(this.errors, "class", errors > 0 ? "alarm" : null);
    setText(this.latency, latency(lastOf(recent("latency_p95"), 15)));
    setText(this.firstByte, latency(lastOf(recent("first_byte_p95"), 15)));
  }

  /** How far a drain is: of what it began with, what has ended. */
  drains(server) {
    const left = server.in_flight + server.queued;
    this.progress.hidden = !server.drain;
    if (!server.drain) return;
    const most = Math.max(server.drain.at_start, left, 1);
    setAttribute(this.progress, "max", most);
    setAttribute(this.progress, "value", most - left);
    setAttribute(this.progress, "aria-label", `${this.name} drains: ${left} of ${server.drain.at_start} left`);
    setText(this.flightMore, left ? ` of ${count(server.drain.at_start)} left` : " left: drained");
  }

  async setState(state) {
    if (this.server.admin === state) return;
    const { title, text, action, danger } = STATES[state];
    const question = { title: title(this.name), text: text(this.server), action, danger };
    await confirm(question, () => send("PUT", serverPath(this.backend, this.name, "state"), { state }));
    this.onChanged();
  }

  async setWeight() {
    const { full_weight: weight, configured_weight: configured } = this.server;
    const question = {
      title: `Weight of ${this.name}`,
      text: `Its share beside the others' weights. Configured: ${configured}. With 0 only those pinned to it still come.`,
      action: "Set weight",
      field: { label: "Weight, 0 to 65535", value: weight },
    };
    await confirm(question, (number) => send("PUT", serverPath(this.backend, this.name, "weight"), { weight: number }));
    this.onChanged();
  }
}
