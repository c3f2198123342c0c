// The dashboard: loads the past, then follows the live stream.

import { Refused, get, listen, send, token } from "./api.js";
import { confirm, signIn } from "./dialogs.js";
import { duration, keepOnly, keyed, setAttribute, setText } from "./format.js";
import {
  Log,
  Tiles,
  abortRow,
  changeRow,
  showCertificates,
  showProcesses,
  showRoutes,
} from "./lists.js";
import { BackendCard } from "./servers.js";
import { Store } from "./store.js";
import { Turns } from "./turns.js";

const FIRST_PAUSE = 1000; // milliseconds until it tries again
const LONGEST_PAUSE = 15000;
const HOUR_EVERY = 10; // seconds: the hour's charts have a sample each

const by = (id) => document.getElementById(id);
const store = new Store(get);
const tiles = new Tiles(by("tiles"));
const changes = new Log(by("changes"), changeRow);
const aborts = new Log(by("aborts"), abortRow);
const turns = new Turns(by("turns-card"));
const cards = new Map();
let newest = null; // the last moment
let isShown = false; // it was drawn

function connection(state, words) {
  setAttribute(by("connection"), "data-state", state);
  setText(by("connection"), words);
}

function show() {
  const { status, servers, time } = newest;
  connection(status.is_draining ? "draining" : "live", status.is_draining ? "draining" : "live");
  setText(by("about"), `${status.version} · up ${duration(time - status.started_at)}`);
  tiles.show(newest);
  showProcesses(by("processes"), status.processes, time);
  showCertificates(by("certificates-card"), by("certificates"), status.certificates, time);
  showRoutes(by("routes"), status.frontends);
  turns.show(status.frontends);
  const names = status.backends.map((backend) => backend.name);
  keepOnly(cards, names);
  keyed(by("backends"), names, (name) => {
    const card = new BackendCard(name, store.states, () => refresh().catch(ignoreRefused));
    cards.set(name, card);
    return card.element;
  });
  for (const backend of status.backends) {
    const own = servers.filter((server) => server.backend === backend.name);
    cards.get(backend.name).show(backend, own, store, time);
  }
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

async function take(moment) {
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
  await store.load(newest.status.backends.map((backend) => backend.name));
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
  await store.load(status.backends.map((backend) => backend.name));
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

follow();
