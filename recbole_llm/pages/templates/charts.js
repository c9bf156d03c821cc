"use strict";
// Charts as SVG: lines, points with intervals, rows with intervals, dots in groups, bars, parallel coordinates.
// Labels and titles are data: they become text nodes and attributes, never markup.
const Charts = (() => {
  const NS = "http://www.w3.org/2000/svg", root = document.documentElement;
  const COLOURS = {
    light: ["#0b5cad", "#d55e00", "#00805b", "#a0438a", "#8a6d00", "#2aa3c4", "#c03a3a", "#5b6470"],
    dark: ["#7db7f5", "#ff9f5a", "#4fd0a0", "#e69ad2", "#e5cd5c", "#7fdcf2", "#ff8a80", "#aab4c0"],
  };
  const DASHES = ["", "7 4", "2 3", "9 3 2 3"], LINE = 15;
  const pen = document.createElement("canvas").getContext("2d");

  const el = (name, attributes, parent, text) => {
    const made = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) if (value !== undefined && value !== "") made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  };
  const widthOf = (text) => {
    pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    return pen.measureText(text).width;
  };
  /** Lines that fit a width, broken after blanks, hyphens, underscores and slashes alone. */
  const wrapped = (text, width) => {
    const lines = [];
    for (const part of text.split(/(?<=[\s\-_/])/)) {
      const longer = lines.length ? lines[lines.length - 1] + part : part;
      if (lines.length && widthOf(longer.trimEnd()) <= width) lines[lines.length - 1] = longer;
      else lines.push(part);
    }
    return lines;
  };
  const write = (parent, lines, x, y, more) => lines.forEach((line, n) => el("text", { x, y: y + n * LINE, ...more }, parent, line));
  const known = (value) => typeof value === "number" && Number.isFinite(value);

  // ---- scales -------------------------------------------------------------------------------------------------
  const digits = (value) => value.toLocaleString("en", Math.abs(value) >= 1e4 ? { notation: "compact" } : { maximumSignificantDigits: 4 });
  const linearTicks = (low, high, count) => {
    const raw = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= raw * 0.999);
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1) found.push(Number((n * step).toPrecision(12)));
    return found;
  };
  const logTicks = (low, high, count) => {
    const found = [], decades = Math.log10(high / low);
    const parts = decades < 1 ? [1, 2, 3, 5, 7] : 3 * decades <= count ? [1, 2, 5] : [1];
    const every = Math.max(1, Math.ceil(decades / Math.max(1, count)));
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (const part of parts) {
        const value = part * 10 ** power;
        if (power % every === 0 && value >= low * 0.999 && value <= high * 1.001) found.push(value);
      }
    }
    return found;
  };
  /** An axis over some values: `at(value)` is its place between `from` and `to`. */
  const scale = (values, from, to, { log = false, zero = false, ticks } = {}) => {
    let low = Math.min(...values), high = Math.max(...values);
    if (zero) [low, high] = [Math.min(0, low), Math.max(0, high)];
    if (log) [low, high] = low === high ? [low / 2, high * 2] : [low, high];
    else if (low === high) [low, high] = [low - Math.abs(low || 1) / 2, high + Math.abs(high || 1) / 2];
    const way = (value) => (log ? Math.log(value) : value), pad = log || zero ? 0 : (high - low) * 0.05;
    const begin = way(low) - pad, end = way(high) + (zero && high > 0 ? (high - low) * 0.05 : pad);
    const at = (value) => from + (to - from) * (way(value) - begin) / (end - begin);
    const room = Math.abs(to - from) / 50;
    return { at, low, high, ticks: ticks || (log ? logTicks(low, high, room) : linearTicks(Math.min(begin, end), Math.max(begin, end), room)) };
  };
  /** Grid, ticks and titles of a plot with two axes. */
  const frame = (svg, box, x, y, titles) => {
    let last = -Infinity;
    for (const value of x.ticks) {
      const place = x.at(value), text = digits(value), half = widthOf(text) / 2;
      el("line", { class: "grid", x1: place, x2: place, y1: box.top, y2: box.bottom }, svg);
      if (place - half < last + 6) continue;
      el("text", { class: "soft", x: place, y: box.bottom + 16, "text-anchor": "middle" }, svg, text);
      last = place + half;
    }
    for (const value of y.ticks) {
      el("line", { class: value === 0 ? "zero" : "grid", x1: box.left, x2: box.right, y1: y.at(value), y2: y.at(value) }, svg);
      el("text", { class: "soft", x: box.left - 6, y: y.at(value) + 4, "text-anchor": "end" }, svg, digits(value));
    }
    el("text", { class: "soft", x: 0, y: 11 }, svg, titles.y);
    el("text", { class: "soft", x: box.right, y: box.bottom + 33, "text-anchor": "end" }, svg, titles.x);
  };
  let captions = 0;
  /** An empty picture, named by the caption of its figure with what is chosen there. */
  const canvas = (place, height) => {
    const width = Math.max(200, place.clientWidth), caption = place.parentElement.querySelector("figcaption");
    if (!caption.id) { captions += 1; caption.id = `caption-${captions}`; }
    place.replaceChildren();
    const svg = el("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-labelledby": caption.id }, place);
    return { svg, width, height };
  };
  const plotBox = (width, height) => ({ left: 48, right: width - 16, top: 22, bottom: height - 42 });

  const mark = (shape, x, y, size, attributes, parent) => {
    const paths = {
      0: `M${x - size} ${y}a${size} ${size} 0 1 0 ${2 * size} 0a${size} ${size} 0 1 0 ${-2 * size} 0`,
      1: `M${x - size} ${y - size}h${2 * size}v${2 * size}h${-2 * size}z`,
      2: `M${x} ${y - 1.3 * size}L${x + 1.2 * size} ${y + size}H${x - 1.2 * size}z`,
      3: `M${x} ${y - 1.4 * size}L${x + 1.4 * size} ${y}L${x} ${y + 1.4 * size}L${x - 1.4 * size} ${y}z`,
    };
    return el("path", { d: paths[shape], ...attributes }, parent);
  };

  // ---- kinds of charts ----------------------------------------------------------------------------------------
  const kinds = {
    /** series: [{label, name, x, y}]; null values are left out. */
    lines(place, { series, x, y }, style) {
      const { svg, width, height } = canvas(place, 300), box = plotBox(width, height);
      const all = series.flatMap((s) => s.x.map((v, n) => [v, s.y[n]]).filter(([, v]) => known(v)));
      const across = scale(all.map(([v]) => v), box.left, box.right, { log: x.log, ticks: x.ticks });
      const up = scale(all.map(([, v]) => v), box.bottom, box.top, { zero: y.zero });
      frame(svg, box, across, up, { x: x.title, y: y.title });
      for (const one of series) {
        const look = style(one.label), group = el("g", { "data-label": one.label }, svg);
        const points = one.x.map((v, n) => [v, one.y[n]]).filter(([, v]) => known(v));
        el("polyline", { points: points.map(([a, b]) => `${across.at(a)},${up.at(b)}`).join(" "), fill: "none",
          stroke: look.colour, "stroke-width": 1.7, "stroke-dasharray": look.dash }, group);
        for (const [a, b] of points) {
          mark(look.shape, across.at(a), up.at(b), 2.4, { fill: look.colour,
            "data-tip": `${one.name || one.label}\n${x.name || x.title} ${digits(a)}: ${b.toFixed(4)}` }, group);
        }
      }
    },
    /** points: [{label, x, y, low, high, tip}]; with `best` ("high" or "low") a line joins those that none is beaten by. */
    points(place, { points, x, y, best }, style) {
      const { svg, width, height } = canvas(place, 300), box = plotBox(width, height);
      const across = scale(points.map((p) => p.x), box.left + 8, box.right - 8, { log: x.log });
      const up = scale(points.flatMap((p) => [p.y, p.low, p.high]).filter(known), box.bottom, box.top);
      frame(svg, box, across, up, { x: x.title, y: y.title });
      if (best) {
        const sign = best === "high" ? 1 : -1, front = [];
        for (const p of [...points].sort((a, b) => a.x - b.x || sign * (b.y - a.y))) {
          if (!front.length || sign * p.y > sign * front[front.length - 1].y) front.push(p);
        }
        const path = front.map((p, n) => (n ? `H${across.at(p.x)}V${up.at(p.y)}` : `M${across.at(p.x)} ${up.at(p.y)}`)).join("");
        el("path", { d: path, fill: "none", class: "zero", "stroke-dasharray": "3 3" }, svg);
      }
      for (const p of points) {
        const look = style(p.label), group = el("g", { "data-label": p.label, "data-tip": p.tip }, svg);
        if (known(p.low)) el("line", { x1: across.at(p.x), x2: across.at(p.x), y1: up.at(p.low), y2: up.at(p.high), stroke: look.colour, "stroke-width": 1.5 }, group);
        mark(look.shape, across.at(p.x), up.at(p.y), 5, { fill: look.colour }, group);
      }
    },
    /** rows: [{label, value, low, high, tone, note, tip}], each on a line of its own; `note` stands at its right end. */
    rows(place, { rows, title }) {
      const width = Math.max(200, place.clientWidth), noted = Math.max(0, ...rows.map((r) => widthOf(r.note || ""))) + 8;
      const longest = Math.max(...rows.map((r) => widthOf(r.label))), beside = width >= 420;
      const gutter = beside ? Math.min(longest, width * 0.4) + 10 : 0;
      const texts = rows.map((r) => wrapped(r.label, beside ? gutter - 10 : width - noted));
      const heights = texts.map((lines) => (beside ? Math.max(22, lines.length * LINE + 7) : lines.length * LINE + 22));
      const height = heights.reduce((a, b) => a + b, 0) + 46, { svg } = canvas(place, height);
      const values = rows.flatMap((r) => [r.value, r.low, r.high]).filter(known);
      const across = scale([...values, 0], gutter + 4, width - noted - 6);
      for (const value of across.ticks) {
        el("line", { class: value === 0 ? "zero" : "grid", x1: across.at(value), x2: across.at(value), y1: 4, y2: height - 40 }, svg);
        el("text", { class: "soft", x: across.at(value), y: height - 25, "text-anchor": "middle" }, svg, digits(value));
      }
      el("text", { class: "soft", x: width, y: height - 6, "text-anchor": "end" }, svg, title);
      let top = 4;
      rows.forEach((row, n) => {
        const group = el("g", { "data-label": row.label, "data-tip": row.tip, class: row.tone || "soft" }, svg);
        const middle = beside ? top + heights[n] / 2 : top + heights[n] - 11, first = beside ? middle - (texts[n].length - 1) * LINE / 2 + 4 : top + 12;
        el("rect", { x: 0, y: top, width, height: heights[n], fill: "transparent" }, group);
        write(group, texts[n], beside ? gutter - 4 : 0, first, { "text-anchor": beside ? "end" : "start" });
        if (known(row.low)) el("line", { x1: across.at(row.low), x2: across.at(row.high), y1: middle, y2: middle, stroke: "currentColor", "stroke-width": 2 }, group);
        mark(0, across.at(row.value), middle, 4.5, { fill: "currentColor" }, group);
        if (row.note) el("text", { class: "soft", x: width, y: beside ? middle + 4 : top + 12, "text-anchor": "end" }, group, row.note);
        top += heights[n];
      });
    },
    /** groups: names; values: {label: [value or null, one a group]}. */
    dots(place, { groups, values, title }, style) {
      const labels = Object.keys(values), { svg, width } = canvas(place, groups.length * 46 + 46), height = groups.length * 46 + 46;
      const all = labels.flatMap((label) => values[label]).filter(known);
      const across = scale(all, 8, width - 8, { zero: true });
      for (const value of across.ticks) {
        el("line", { class: value === 0 ? "zero" : "grid", x1: across.at(value), x2: across.at(value), y1: 4, y2: height - 40 }, svg);
        el("text", { class: "soft", x: across.at(value), y: height - 25, "text-anchor": "middle" }, svg, digits(value));
      }
      el("text", { class: "soft", x: width, y: height - 6, "text-anchor": "end" }, svg, title);
      groups.forEach((name, n) => {
        const top = 4 + n * 46;
        el("text", { x: 14, y: top + 14 }, svg, name);
        el("line", { class: "grid", x1: 0, x2: width, y1: top + 30, y2: top + 30 }, svg);
        for (const label of labels) {
          const value = values[label][n], look = style(label);
          if (known(value)) mark(look.shape, across.at(value), top + 30, 5, { fill: look.colour, "fill-opacity": 0.85, "data-label": label, "data-tip": `${label}\n${name}: ${value.toFixed(4)}` }, svg);
        }
      });
    },
    /** rows: [{label, value, tip}]. */
    bars(place, { rows, title }) {
      const gutter = Math.min(Math.max(...rows.map((r) => widthOf(r.label))) + 10, place.clientWidth / 2);
      const height = rows.length * 24 + 46, { svg, width } = canvas(place, height);
      const across = scale(rows.map((r) => r.value), gutter, width - 10, { zero: true });
      for (const value of across.ticks) {
        el("line", { class: "grid", x1: across.at(value), x2: across.at(value), y1: 4, y2: height - 40 }, svg);
        el("text", { class: "soft", x: across.at(value), y: height - 25, "text-anchor": "middle" }, svg, digits(value));
      }
      el("text", { class: "soft", x: width, y: height - 6, "text-anchor": "end" }, svg, title);
      rows.forEach((row, n) => {
        el("text", { x: gutter - 6, y: 20 + n * 24, "text-anchor": "end" }, svg, row.label);
        el("rect", { x: across.at(0), y: 7 + n * 24, width: Math.max(1, across.at(row.value) - across.at(0)), height: 17, fill: "var(--accent)", "data-tip": row.tip }, svg);
      });
    },
    /** axes: [{title, log, names}] with `names` where values are choices; lines: [{values, share, tip}], share 0 to 1 is the shade. */
    parallel(place, { axes, lines }) {
      const least = 70 * axes.length, { svg, width, height } = canvas(place, 320);
      const box = { left: 40, right: Math.max(width, least) - 40, top: 66, bottom: height - 10 };
      const step = (box.right - box.left) / Math.max(1, axes.length - 1);
      const scales = axes.map((axis, n) => {
        const values = lines.map((line) => line.values[n]).filter(known);
        return scale(values, box.bottom, box.top, axis.names ? { ticks: axis.names.map((_, i) => i) } : { log: axis.log });
      });
      for (const line of [...lines].sort((a, b) => a.share - b.share)) {
        const points = line.values.map((v, n) => (known(v) ? `${box.left + n * step},${scales[n].at(v)}` : null)).filter(Boolean);
        el("polyline", { points: points.join(" "), fill: "none", stroke: "var(--accent)", "stroke-width": 1.5,
          "stroke-opacity": 0.12 + 0.88 * line.share ** 2, "data-tip": line.tip }, svg);
      }
      axes.forEach((axis, n) => {
        const x = box.left + n * step, anchor = n === axes.length - 1 ? "end" : n ? "middle" : "start";
        el("line", { class: "zero", x1: x, x2: x, y1: box.top, y2: box.bottom }, svg);
        write(svg, wrapped(axis.title, 2 * step - 16).slice(0, 2), x, n % 2 ? 44 : 12, { "text-anchor": anchor });
        for (const value of scales[n].ticks) {
          const text = axis.names ? axis.names[value] : digits(value);
          el("text", { class: "soft", x: x + (n === axes.length - 1 ? -5 : 5), y: scales[n].at(value) + 4, "text-anchor": n === axes.length - 1 ? "end" : "start" }, svg, text);
        }
      });
      svg.setAttribute("width", Math.max(width, least));
      svg.setAttribute("viewBox", `0 0 ${Math.max(width, least)} ${height}`);
      if (least > width) svg.style.width = `${least}px`;
    },
  };

  // ---- what all charts do: hints, one legend a set, drawing again ------------------------------------------------
  const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
  document.addEventListener("pointermove", (event) => {
    const found = event.target.closest && event.target.closest("[data-tip]");
    tip.hidden = !found;
    if (!found) return;
    tip.textContent = found.dataset.tip;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(4, event.clientY - tip.offsetHeight - 10)}px`;
  });

  const drawn = [];  // [place, function that draws it again]
  const watch = new ResizeObserver((entries) => entries.forEach(({ target }) => {
    const one = drawn.find(([place]) => place === target);
    if (one && one.width !== target.clientWidth) { one.width = target.clientWidth; one[1](); }
  }));
  document.addEventListener("theme", () => drawn.forEach(([, draw]) => draw()));

  /** Keep a chart drawn: now, after a change of width or theme. */
  const keep = (place, draw) => {
    const entry = [place, draw];
    entry.width = place.clientWidth;
    drawn.push(entry);
    draw();
    watch.observe(place);
  };

  /** One legend for a set of charts: `style(label)`, `shown(label)`. A click shows a label or hides it. */
  const legend = (place, labels, redraw) => {
    const hidden = new Set();
    const style = (label) => {
      const colours = COLOURS[root.dataset.theme] || COLOURS.light, number = Math.max(0, labels.indexOf(label));
      const round = Math.floor(number / colours.length) % DASHES.length;
      return { colour: colours[number % colours.length], dash: DASHES[round], shape: round };
    };
    const paint = () => {
      const focused = [...place.children].indexOf(document.activeElement);  // a new button takes its place
      place.replaceChildren();
      if (labels.length > 6) {
        const all = place.appendChild(Object.assign(document.createElement("button"), { type: "button", textContent: hidden.size ? "show all" : "hide all" }));
        all.addEventListener("click", () => { if (hidden.size) hidden.clear(); else labels.forEach((label) => hidden.add(label)); redraw(); paint(); });
      }
      for (const label of labels) {
        const look = style(label), button = place.appendChild(document.createElement("button"));
        button.type = "button";
        button.setAttribute("aria-pressed", String(!hidden.has(label)));
        button.classList.toggle("off", hidden.has(label));
        const key = el("svg", { width: 26, height: 12, "aria-hidden": "true" }, button);
        el("line", { x1: 0, x2: 26, y1: 6, y2: 6, stroke: look.colour, "stroke-width": 2, "stroke-dasharray": look.dash }, key);
        mark(look.shape, 13, 6, 4, { fill: look.colour }, key);
        button.append(Object.assign(document.createElement("span"), { textContent: label }));
        button.addEventListener("click", () => { if (!hidden.delete(label)) hidden.add(label); redraw(); paint(); });
        for (const [event, on] of [["pointerenter", true], ["pointerleave", false]]) {
          button.addEventListener(event, () => place.parentElement.querySelectorAll("svg [data-label]").forEach((one) =>
            one.classList.toggle("faded", on && one.dataset.label !== label)));
        }
      }
      if (focused >= 0) place.children[focused].focus();
    };
    paint();
    document.addEventListener("theme", paint);
    return { style, shown: (label) => !hidden.has(label) };
  };

  return { kinds, keep, legend };
})();
