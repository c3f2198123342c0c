// Numbers, durations and times in words, and the few DOM helpers that all of the page uses.

/** An element: `make("p", {class: "quiet"}, "text", child)`. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Sets a text only if it is another one: what does not change does not flicker. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute only if it is another value; null removes it. */
export function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Keeps `parent`'s children as one for each key, in order: `create` makes what is new. */
export function keyed(parent, keys, create) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  // First: a child that is moved for another one that goes would lose the focus.
  const wanted = new Set(keys);
  for (const [key, child] of known) if (!wanted.has(key)) child.remove();
  keys.forEach((key, index) => {
    let child = known.get(key);
    if (child === undefined) {
      child = create(key);
      child.dataset.key = key;
    }
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
}

/** Drops all of `map` but these keys. */
export function keepOnly(map, keys) {
  const wanted = new Set(keys);
  for (const key of map.keys()) if (!wanted.has(key)) map.delete(key);
}

/** 1234567 -> "1.23 M"; below 10 with one decimal, if it is not whole. */
export function count(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e4, " k"]]) {
    if (value >= size) return Number((value / (unit === " k" ? 1e3 : size)).toPrecision(3)) + unit;
  }
  if (Number.isInteger(value)) return String(value);
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

/** 1234567 -> "1.23 MB". */
export function bytes(value) {
  return value < 1e4 ? `${count(value)} B` : `${count(value)}B`;
}

/** Seconds of a latency -> "1.2 ms", "340 ms", "2.5 s", "3 min". */
export function latency(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  if (seconds === 0) return "0";
  if (seconds < 0.0995) return `${+(seconds * 1000).toPrecision(2)} ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 100) return `${+seconds.toPrecision(2)} s`;
  return `${Math.round(seconds / 60)} min`;
}

/** Seconds that have passed -> "45 s", "12 min", "3 h 20 min", "5 d 2 h". */
export function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  const pair = s < 86400 ? [s / 3600, "h", (s % 3600) / 60, "min"] : [s / 86400, "d", (s % 86400) / 3600, "h"];
  const [large, unit, small, smaller] = pair;
  return Math.floor(small) ? `${Math.floor(large)} ${unit} ${Math.floor(small)} ${smaller}` : `${Math.floor(large)} ${unit}`;
}

/** A Unix time -> "14:03:27", with the date if it is not today's. */
export function clock(time) {
  const date = new Date(time * 1000);
  const pad = (n) => String(n).padStart(2, "0");
  const text = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  if (date.toDateString() === new Date().toDateString()) return text;
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())} ${text}`;
}

/** "1 request", "3 requests". */
export function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}

/** The mean of the last numbers of a column, nulls left out; null if there is none. */
export function meanOfLast(column, howMany) {
  const values = column.slice(-howMany).filter((value) => value !== null);
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

/** The last number among the newest of a column; null if there is none. */
export function lastOf(column, howMany) {
  return column.slice(-howMany).findLast((value) => value !== null) ?? null;
}
