// What the charts show: columns of numbers, from the history and then from each live moment.

const SECONDS = { "5m": 300, "1h": 3600 };

const BACKEND_FIELDS = [
  "requests", "errors", "in_flight", "queued",
  "latency_p50", "latency_p95", "latency_p99", "first_byte_p50", "first_byte_p95", "first_byte_p99",
];
const SERVER_FIELDS = ["requests", "errors", "state", "latency_p95", "first_byte_p95"];
// Of many servers only what their rows draw; the others begin with the page.
const FEW = 100;
const DRAWN_FIELDS = ["requests", "state"];

function empty(fields, length) {
  return Object.fromEntries(fields.map((field) => [field, Array(length).fill(null)]));
}

export class Store {
  constructor(get) {
    this.get = get;
    this.span = "5m";
    this.states = [];
    this.reset();
  }

  reset() {
    this.times = [];
    this.columns = new Map();
    this.loadedAt = 0;
  }

  get seconds() {
    return SECONDS[this.span];
  }

  /** Loads the past, for these backends. */
  async load(backends) {
    const span = this.span;
    const servers = backends.reduce((sum, backend) => sum + backend.servers, 0);
    const fields = servers > FEW ? DRAWN_FIELDS : SERVER_FIELDS;
    const [all, ...each] = await Promise.all([
      this.get(`history?span=${span}&fields=${BACKEND_FIELDS}`),
      ...backends.map(({ name }) =>
        this.get(`history?span=${span}&fields=${fields}&backend=${encodeURIComponent(name)}`)),
    ]);
    if (span !== this.span) return; // another one was asked for meanwhile
    this.times = all.times;
    this.states = all.states;
    this.loadedAt = all.times.at(-1) ?? 0;
    this.columns = new Map();
    for (const [name, columns] of Object.entries(all.backends)) {
      this.columns.set(name, this.aligned(columns, BACKEND_FIELDS, all.times));
    }
    each.forEach(({ servers, times }, n) => {
      for (const [name, columns] of Object.entries(servers)) {
        this.columns.set(`${backends[n].name}/${name}`, this.aligned(columns, SERVER_FIELDS, times));
      }
    });
  }

  /** The answers were given one after the other: a sample may have come between two of them. */
  aligned(columns, fields, times) {
    const found = empty(fields, this.times.length);
    const index = new Map(times.map((time, n) => [time, n]));
    for (const field of fields) {
      if (columns[field]) found[field] = this.times.map((time) => columns[field][index.get(time)] ?? null);
    }
    return found;
  }

  /** Adds a live moment; the hour has a sample each 10 s, so it is loaded anew instead. */
  add(moment) {
    if (this.span !== "5m" || moment.sampled_at <= (this.times.at(-1) ?? 0)) return;
    this.times.push(moment.sampled_at);
    for (const backend of moment.status.backends) this.append(backend.name, BACKEND_FIELDS, backend.sample);
    for (const server of moment.servers) {
      this.append(`${server.backend}/${server.name}`, SERVER_FIELDS, server.sample);
    }
    for (const columns of this.columns.values()) {
      for (const field in columns) if (columns[field].length < this.times.length) columns[field].push(null);
    }
    if (this.times.length > this.seconds + 30) {
      this.times.shift();
      for (const columns of this.columns.values()) for (const field in columns) columns[field].shift();
      this.forget();
    }
  }

  /** What left the configuration, when nothing of it is shown any more. */
  forget() {
    const isEmpty = (column) => column.every((value) => value === null);
    for (const [key, columns] of this.columns) {
      if (Object.values(columns).every(isEmpty)) this.columns.delete(key);
    }
  }

  append(key, fields, sample) {
    if (!this.columns.has(key)) this.columns.set(key, empty(fields, this.times.length - 1));
    const columns = this.columns.get(key);
    for (const field of fields) columns[field].push(sample[field] ?? null);
  }

  of(key) {
    return this.columns.get(key) ?? {};
  }
}
