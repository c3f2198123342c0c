// Talks to /api/v1. A token, if one is needed, is kept in this tab's sessionStorage.

const TOKEN = "hermes_lb.token";
// Milliseconds. A reload opens listeners and looks names up; a live stream speaks each second.
const PATIENCE = 30000;
const LONGEST_SILENCE = 5000;
const NO_ANSWER = "The balancer does not answer. Is it still running?";

/** An answer that is no success. `status` is 0 if there was no answer. */
export class Refused extends Error {
  constructor(status, message, problems = []) {
    super(message);
    this.status = status;
    this.problems = problems;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

async function ask(path, signal, options = {}) {
  const headers = { ...options.headers };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  let response;
  try {
    response = await fetch(`/api/v1/${path}`, { ...options, headers, signal, cache: "no-store" });
  } catch {
    throw new Refused(0, NO_ANSWER);
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({ error: undefined }));
  throw new Refused(response.status, error?.message ?? response.statusText, error?.problems);
}

async function answer(path, options) {
  const response = await ask(path, AbortSignal.timeout(PATIENCE), options);
  return response.json().catch(() => { throw new Refused(0, NO_ANSWER); }); // cut, or too slow
}

export function get(path) {
  return answer(path);
}

export function send(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  return answer(path, { method, headers, body: JSON.stringify(body) });
}

export function serverPath(backend, server, what) {
  return `servers/${encodeURIComponent(backend)}/${encodeURIComponent(server)}/${what}`;
}

/**
 * Calls `onMoment` for each event until the stream ends, or is silent: a balancer that hangs, and a
 * network that is gone after a sleep, do not end it. EventSource can't send a token.
 */
export async function listen(onMoment, onOpen) {
  const silent = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silent.abort(), LONGEST_SILENCE);
  };
  heard();
  try {
    const response = await ask("events", silent.signal);
    onOpen();
    await read(response, onMoment, heard);
  } finally {
    clearTimeout(timer);
  }
}

async function read(response, onMoment, heard) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done) return;
    heard();
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (event.startsWith("data: ")) onMoment(JSON.parse(event.slice(6)));
    }
  }
}
