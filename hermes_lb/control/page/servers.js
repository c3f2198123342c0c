// One backend: its charts, and its servers with their states and buttons.

import { send, serverPath } from "./api.js";
import { Chart, Sparkline, Strip } from "./charts.js";
import { confirm } from "./dialogs.js";
import { count, duration, keepOnly, keyed, lastOf, latency, make, meanOfLast, plural, setAttribute, setText } from "./format.js";

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

export class BackendCard {
  constructor(name, states, onChanged) {
    this.name = name;
    this.states = states;
    this.onChanged = onChanged;
    this.charts = CHARTS.map((chart) => new Chart(chart));
    this.summary = make("p", { class: "quiet" });
    this.rows = make("ul", { class: "servers" });
    this.views = new Map();
    const title = `backend-${name}`;
    this.element = make("section", { class: "card backend", "aria-labelledby": title },
      make("header", {}, make("h2", { id: title }, name), this.summary),
      make("div", { class: "charts" }, ...this.charts.map((chart) => chart.element)),
      make("div", { class: "head", "aria-hidden": "true" }, ...COLUMNS.map((column) => make("span", {}, column))),
      this.rows);
  }

  show(backend, servers, store, now) {
    const usable = `${backend.available} of ${plural(backend.servers, "server")} available`;
    const waits = backend.queued ? `, ${count(backend.queued)} queued` : "";
    setText(this.summary, `${usable}, ${count(backend.in_flight)} in flight${waits}${resumes(backend.resumes)}`);
    setAttribute(this.summary, "class", backend.available ? "quiet" : "alarm"); // nobody serves
    for (const chart of this.charts) chart.show(store.times, store.of(this.name), now, store.seconds);
    const names = servers.map((server) => server.name);
    keepOnly(this.views, names);
    keyed(this.rows, names, (name) => {
      const row = new ServerRow(this.name, name, this.states, this.onChanged);
      this.views.set(name, row);
      return row.element;
    });
    for (const server of servers) this.views.get(server.name).show(server, store, now);
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
  constructor(backend, name, states, onChanged) {
    Object.assign(this, { backend, name, onChanged });
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
      make("div", { class: "cell who" }, make("span", {}, make("b", {}, name), this.backup), this.address),
      make("div", { class: "cell condition" }, this.state, this.because),
      make("div", { class: "cell past" }, this.strip.svg),
      cell("In flight", make("span", {}, this.flight, this.flightMore), this.progress),
      cell("Requests/s", this.requests, this.spark.svg),
      cell("Errors/s", this.errors),
      cell("p95", this.latency),
      cell("First byte p95", this.firstByte),
      make("div", { class: "cell control" },
        make("div", { class: "segments", role: "group", "aria-label": `state of ${name}` }, ...Object.values(this.buttons)),
        this.weight));
  }

  show(server, store, now) {
    this.server = server;
    const isFound = server.source !== "config";
    setText(this.address, isFound ? `${server.address} (${server.source})` : server.address);
    this.backup.hidden = !server.backup;
    setText(this.state, server.state);
    const isAssumed = server.state === "up" && !server.checked;
    setAttribute(this.state, "class", `state ${isAssumed ? "unchecked" : server.state}`);
    setText(this.because, why(server, now));
    setAttribute(this.because, "title", this.because.textContent);
    const past = store.of(`${this.backend}/${this.name}`);
    this.strip.show(store.times, past.state ?? [], now, store.seconds);
    this.spark.show(store.times, past.requests ?? [], now, store.seconds);
    this.numbers(server, past);
    this.drains(server);
    for (const [state, button] of Object.entries(this.buttons)) {
      setAttribute(button, "aria-pressed", server.admin === state);
    }
    setText(this.weight, `weight ${server.full_weight}`);
    setAttribute(this.weight, "aria-label", `weight of ${this.name}: ${server.full_weight}`);
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
