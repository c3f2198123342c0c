// The dashboard: loads the past, then follows the live stream.

import { Refused, get, listen, send, token } from "./api.js";
import { confirm, signIn } from "./dialogs.js";
import { duration, keepOnly, keyed, plural, setAttribute, setText } from "./format.js";
import { Filter } from "./filter.js";
import {
  Log,
  Tiles,
  abortRow,
  changeRow,
  showCertificates,
  showFrontends,
  showProcesses,
  showRoutes,
} from "./lists.js";
import { NOTABLE, Problems, badness } from "./problems.js";
import { BackendCard } from "./servers.js";
import { Store } from "./store.js";
import { Turns } from "./turns.js";

const FIRST_PAUSE = 1000; // milliseconds until it tries again
const LONGEST_PAUSE = 15000;
// Above both, backends without problems are collapsed at first.
const FEW_SERVERS = 60;
const FEW_BACKENDS = 3;
const HOUR_EVERY = 10; // seconds: the hour's charts have a sample each

const by = (id) => document.getElementById(id);
const store = new Store(get);
const tiles = new Tiles(by("tiles"));
const changes = new Log(by("changes"), changeRow);
const aborts = new Log(by("aborts"), abortRow);
const turns = new Turns(by("turns-card"));
const problems = new Problems(by("problems-title"), by("problems"), by("problems-more"));
const filter = new Filter();
const cards = new Map();
const known = new Map(); // servers by backend and name
let newest = null; // the last moment, with all servers
let isShown = false; // it was drawn
let shownServer = ""; // the one that the address names, once it was found

function connection(state, words) {
  setAttribute(by("connection"), "data-state", state);
  setText(by("connection"), words);
}

function show() {
  const { status, servers, time } = newest;
  connection(status.is_draining ? "draining" : "live", status.is_draining ? "draining" : "live");
  setText(by("about"), `${status.version} · up ${duration(time - status.started_at)}`);
  tiles.show(newest);
  problems.show(servers, (server) => filter.link(server));
  showFrontends(by("frontends"), status.frontends);
  showProcesses(by("processes"), status.processes, time);
  showCertificates(by("certificates-card"), by("certificates"), status.certificates, time);
  showRoutes(by("routes"), status.frontends);
  turns.show(status.frontends);
  showBackends(status.backends, servers, time);
}

function showBackends(backends, servers, time) {
  const own = new Map(backends.map((backend) => [backend.name, []]));
  for (const server of servers) own.get(server.backend)?.push(server);
  const isLarge = servers.length > FEW_SERVERS && backends.length > FEW_BACKENDS;
  if (isLarge && filter.sort === "problems") {
    const worst = new Map(backends.map(({ name }) => [name, Math.max(0, ...own.get(name).map(badness))]));
    // By their states only: errors come and go each second.
    const rank = ({ name }) => (worst.get(name) > NOTABLE ? worst.get(name) : 0);
    backends = backends.toSorted((a, b) => rank(b) - rank(a));
  }
  const names = backends.map((backend) => backend.name);
  keepOnly(cards, names);
  keyed(by("backends"), names, (name) => {
    const card = new BackendCard(name, store.states, filter, () => refresh().catch(ignoreRefused));
    cards.set(name, card);
    return card.element;
  });
  let found = 0;
  for (const backend of backends) {
    found += cards.get(backend.name).show(backend, own.get(backend.name), { store, now: time, isLarge });
  }
  setText(by("found"), filter.isOn ? `${plural(found, "server")} found` : plural(found, "server"));
  if (filter.server !== shownServer) goTo(filter.server);
}

/** Shows one server: links lead to it. */
function goTo(named) {
  const slash = named.indexOf("/");
  const card = cards.get(named.slice(0, slash));
  if (named && !card?.reveal(named.slice(slash + 1))) return; // not there yet, or no more
  shownServer = named;
}

/** The whole moment: an event has the servers that differ from the event before. */
function whole(moment) {
  if (moment.is_whole) known.clear();
  for (const server of moment.servers) known.set(`${server.backend}/${server.name}`, server);
  for (const name of moment.gone) known.delete(name);
  return { ...moment, servers: [...known.values()] };
}

/** Draws once per frame at most, and not at all in a hidden tab. */
function showSoon() {
  if (!isShown) return;
  isShown = false;
  requestAnimationFrame(() => {
    isShown = true;
    show();
  });
}

async function fetchNews() {
  const { last_change: change, last_abort: abort } = newest;
  if (change > changes.last) changes.add(await get(`changes?since=${changes.last}`));
  if (abort > aborts.last) aborts.add(await get(`recent?since=${aborts.last}`));
}

async function take(event) {
  const moment = whole(event);
  newest = moment;
  setAttribute(by("main"), "data-known", "");
  store.add(moment);
  showSoon();
  if (store.span !== "5m" && moment.time - store.loadedAt >= HOUR_EVERY) await loadPast();
  await fetchNews();
}

/** The stream ends too when the balancer is lost, and says so. */
function ignoreRefused(error) {
  if (!(error instanceof Refused)) throw error;
}

async function loadPast() {
  await store.load(newest.status.backends);
}

/** After a command: its effect is seen at once, and not within a second. */
async function refresh() {
  const servers = new Map((await get("servers")).map((one) => [`${one.backend}/${one.name}`, one]));
  for (const server of newest.servers) Object.assign(server, servers.get(`${server.backend}/${server.name}`));
  showSoon();
}

async function start() {
  by("sign-out").hidden = !token.get();
  const status = await get("status");
  await store.load(status.backends);
  isShown = true;
}

async function follow() {
  let pause = FIRST_PAUSE;
  const opened = () => {
    pause = FIRST_PAUSE;
    // After a restart or an upgrade their numbers may begin anew.
    changes.clear();
    aborts.clear();
  };
  for (;;) {
    try {
      await start();
      await listen((moment) => take(moment).catch(ignoreRefused), opened);
      connection("lost", "connection lost");
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.status === 401) {
        connection("lost", "signed out");
        setAttribute(by("main"), "data-known", null); // nothing is claimed to strangers
        await signIn(() => get("status"));
        continue;
      }
      connection("lost", error.message);
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(2 * pause, LONGEST_PAUSE);
  }
}

by("span").addEventListener("click", async (event) => {
  const { value } = event.target;
  if (!value || value === store.span || !newest) return;
  for (const button of by("span").querySelectorAll("button")) {
    setAttribute(button, "aria-pressed", button.value === value);
  }
  store.span = value;
  store.reset();
  await loadPast().catch(ignoreRefused);
  showSoon();
});

function fillFilters() {
  for (const field of by("filters").elements) if (field.name) field.value = filter[field.name];
  setAttribute(document.body, "data-view", filter.view);
}

by("filters").addEventListener("input", ({ target }) => {
  filter.set(target.name, target.value);
  fillFilters();
  if (newest) showSoon();
});
by("filters").addEventListener("submit", (event) => event.preventDefault());

for (const [id, isOpen] of [["expand", true], ["collapse", false]]) {
  by(id).addEventListener("click", () => {
    for (const card of cards.values()) card.setOpen(isOpen);
    if (newest) showSoon();
  });
}

window.addEventListener("hashchange", () => {
  filter.read();
  shownServer = "";
  fillFilters();
  if (newest) showSoon();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, select, textarea, dialog")) return;
  event.preventDefault();
  by("filters").elements.q.focus();
});

by("reload").addEventListener("click", async () => {
  const answer = await confirm({
    title: "Reload the configuration?",
    text: "The file is read anew and checked. With any error in it, everything stays as it is. Nothing that runs is cut.",
    action: "Reload",
  }, () => send("POST", "reload", {}));
  if (answer) {
    const text = answer.changes.length ? answer.changes.join("\n") : "Nothing has changed.";
    await confirm({ title: "Reloaded", text, action: "Close" }, () => null);
  }
});

by("sign-out").addEventListener("click", () => {
  token.forget();
  location.reload();
});

fillFilters();
follow();
