// Charts in SVG, drawn by hand: lines over time, a small line, and a strip of states.

import { clock, make, setText } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 96;
const PAD = { left: 56, right: 10, top: 10, bottom: 20 };

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** The next of 1, 2, 5 times a power of ten. */
function niceAbove(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value * 0.999999);
}

/** Points to a path, with gaps where there is no value; a lone point becomes a dot. */
function path(points) {
  let d = "";
  points.forEach((point, i) => {
    if (point === null) return;
    const [x, y] = point;
    const isNew = i === 0 || points[i - 1] === null;
    d += `${isNew ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    if (isNew && (i + 1 >= points.length || points[i + 1] === null)) d += "h.01";
  });
  return d;
}

/**
 * Lines over time. `series`: [{field, name, style}]; `format` shows a value; `least` is the lowest
 * that the top of the scale may be. Its legend shows the newest values, or those under the pointer.
 */
export class Chart {
  constructor({ title, series, format, least }) {
    this.series = series;
    this.format = format;
    this.least = least;
    this.width = 0;
    this.pointed = null; // x of the pointer
    this.values = series.map(() => make("b", {}, "–"));
    this.at = make("span", { class: "at" });
    const legend = make("p", { class: "legend" });
    series.forEach((one, i) => {
      legend.append(make("span", { class: `key ${one.style}` }, make("i"), `${one.name} `, this.values[i]));
    });
    this.svg = draw("svg", { role: "img", height: HEIGHT });
    this.grid = draw("g", { class: "grid" });
    this.marks = draw("g", {});
    this.cursor = draw("line", { class: "cursor", y1: PAD.top, y2: HEIGHT - PAD.bottom, visibility: "hidden" });
    this.lines = series.map((one) => draw("path", { class: `line ${one.style}` }));
    this.areas = series.map((one) => draw("path", { class: `area ${one.style}` }));
    this.svg.append(this.grid, ...this.areas, ...this.lines, this.cursor);
    this.title = title;
    this.element = make("figure", { class: "chart" },
      make("figcaption", {}, make("span", { class: "name" }, title), this.at), legend, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(([entry]) => {
      this.width = entry.contentRect.width;
      this.render();
    }).observe(this.element);
  }

  /** `columns`: by field; `until` and `span` in seconds say which part of time is shown. */
  show(times, columns, until, span) {
    this.data = { times, columns, until, span };
    this.render();
  }

  point(x) {
    this.pointed = x;
    this.render();
  }

  render() {
    if (!this.data || this.width < 80) return;
    const { times, columns, until, span } = this.data;
    const width = this.width;
    this.svg.setAttribute("width", width);
    const inner = width - PAD.left - PAD.right;
    const bottom = HEIGHT - PAD.bottom;
    const all = this.series.flatMap((one) => columns[one.field] ?? []).filter((v) => v !== null);
    const top = niceAbove(Math.max(this.least, ...all));
    const x = (time) => PAD.left + inner * (1 - (until - time) / span);
    const y = (value) => bottom - (bottom - PAD.top) * Math.min(1, value / top);
    this.axes(top, y, span, width);
    this.series.forEach((one, i) => {
      const column = columns[one.field] ?? [];
      const points = times.map((time, n) =>
        column[n] === null || column[n] === undefined || time < until - span ? null : [x(time), y(column[n])]);
      const d = path(points);
      this.lines[i].setAttribute("d", d);
      const shown = points.filter((point) => point !== null);
      const isWhole = one.style.includes("filled") && shown.length > 1;
      this.areas[i].setAttribute("d", isWhole
        ? `${path(shown)}L${shown.at(-1)[0].toFixed(1)} ${bottom}L${shown[0][0].toFixed(1)} ${bottom}Z` : "");
    });
    this.read(times, columns, x);
  }

  axes(top, y, span, width) {
    const key = `${top} ${span} ${Math.round(width)}`;
    if (this.drawn === key) return;
    this.drawn = key;
    this.grid.replaceChildren();
    for (const value of [0, top / 2, top]) {
      const text = draw("text", { x: PAD.left - 8, y: y(value) + 4, "text-anchor": "end" });
      text.textContent = this.format(value);
      this.grid.append(draw("line", { x1: PAD.left, x2: width - PAD.right, y1: y(value), y2: y(value) }), text);
    }
    const minutes = span / 60;
    [[PAD.left, "start", `−${minutes} min`], [width - PAD.right, "end", "now"]].forEach(([at, anchor, words]) => {
      const text = draw("text", { x: at, y: HEIGHT - 4, "text-anchor": anchor });
      text.textContent = words;
      this.grid.append(text);
    });
  }

  /** Fills the legend, and places the cursor. */
  read(times, columns, x) {
    let index = times.length - 1;
    const isPointed = this.pointed !== null && times.length > 0;
    if (isPointed) {
      const distance = (n) => Math.abs(x(times[n]) - this.pointed);
      index = times.reduce((best, _, n) => (distance(n) < distance(best) ? n : best), index);
      this.cursor.setAttribute("x1", x(times[index]));
      this.cursor.setAttribute("x2", x(times[index]));
    }
    this.cursor.setAttribute("visibility", isPointed ? "visible" : "hidden");
    setText(this.at, isPointed ? clock(times[index]) : "");
    const words = this.series.map((one, i) => {
      const column = columns[one.field] ?? [];
      const value = isPointed ? column[index] : column.slice(-15).findLast((v) => v !== null);
      setText(this.values[i], this.format(value));
      return `${one.name} ${this.format(value)}`;
    });
    if (!isPointed) this.svg.setAttribute("aria-label", `${this.title}: ${words.join(", ")}`);
  }
}

const SMALL = { width: 96, height: 24 };
const SLOTS = 40; // means of so many parts of the time
const MOST_STATES = 5; // that are told in words

/** A small line without axes. */
export class Sparkline {
  constructor() {
    this.line = draw("path", { class: "line requests" });
    this.svg = draw("svg", { class: "spark", "aria-hidden": "true", viewBox: `0 0 ${SMALL.width} ${SMALL.height}`, preserveAspectRatio: "none" });
    this.svg.append(this.line);
  }

  show(times, column, until, span) {
    const sums = Array.from({ length: SLOTS }, () => [0, 0]);
    times.forEach((time, n) => {
      const slot = Math.floor(SLOTS * (1 - (until - time) / span));
      if (slot < 0 || slot > SLOTS || column[n] === null || column[n] === undefined) return;
      const sum = sums[Math.min(slot, SLOTS - 1)];
      sum[0] += column[n];
      sum[1] += 1;
    });
    const means = sums.map(([sum, number]) => (number ? sum / number : null));
    const top = Math.max(1, ...means);
    const width = SMALL.width / (SLOTS - 1);
    this.line.setAttribute("d", path(means.map((mean, n) =>
      mean === null ? null : [width * n, 22 - (20 * mean) / top])));
  }
}

/** The states that a server had, as coloured pieces of a strip. */
export class Strip {
  constructor(states) {
    this.states = states;
    this.svg = draw("svg", { class: "strip", role: "img", viewBox: "0 0 1000 10", preserveAspectRatio: "none" });
  }

  show(times, column, until, span) {
    const step = times.length > 1 ? times.at(-1) - times.at(-2) : 1;
    const runs = [];
    times.forEach((time, n) => {
      const state = column[n];
      if (state === null || state === undefined || time < until - span) return;
      const last = runs.at(-1);
      if (last && last.state === state) last.to = time;
      else runs.push({ state, from: last ? last.to : time - step, to: time });
    });
    const key = runs.map((run) => run.state).join();
    if (key !== this.key) {
      this.key = key;
      this.svg.replaceChildren(...runs.map((run) => {
        const piece = draw("rect", { y: 0, height: 10, class: this.states[run.state] });
        piece.append(draw("title", {}));
        return piece;
      }));
      const last = runs.slice(-MOST_STATES).map((run) => this.states[run.state]).join(", then ");
      const more = runs.length > MOST_STATES ? `${runs.length - 1} changes of state, at last: ` : "states: ";
      this.svg.setAttribute("aria-label", more + last);
    }
    runs.forEach((run, n) => {
      const place = (time) => Math.max(0, 1000 * (1 - (until - time) / span));
      const piece = this.svg.children[n];
      piece.setAttribute("x", place(run.from).toFixed(1));
      piece.setAttribute("width", Math.max(2, place(run.to) - place(run.from)).toFixed(1));
      setText(piece.firstChild, `${this.states[run.state]} until ${clock(run.to)}`);
    });
  }
}
