"use strict";
// Decoding, colours, legends and line charts; knows nothing of models.

const SEQUENTIAL = { // one hue, lightness in order: readable with any colour vision
  light: ["#ffffff", "#d3e3f3", "#86b9dc", "#3787c0", "#105ba4", "#08306b"],
  dark: ["#161b22", "#123a5c", "#17618f", "#3690bd", "#7cc4dd", "#eafaff"],
};
const DIVERGING = { // orange below zero, blue above
  light: ["#8c4a00", "#e08a2c", "#f7d9b0", "#f7f7f7", "#b3d3ea", "#3f8fc5", "#0a4a80"],
  dark: ["#ffc27a", "#d08030", "#6e4514", "#22262c", "#1c4a70", "#3f8fc5", "#a8dcff"],
};
const theme = () => document.documentElement.dataset.theme;
const byId = (id) => document.getElementById(id);

function make(tag, parent, text, className) {
  const found = document.createElement(tag);
  if (text !== undefined) found.textContent = text;
  if (className) found.className = className;
  if (parent) parent.append(found);
  return found;
}

function bytes(packed) {
  return Uint8Array.from(atob(packed.b64), (c) => c.charCodeAt(0));
}

function unpack(packed) { // Float32Array of what `quantise` packed
  const step = (packed.high - packed.low) / 255;
  const values = Float32Array.from(bytes(packed), (b) => packed.low + step * b);
  const from = { log: Math.exp, sqrt: (x) => x * x }[packed.scale];
  return from ? values.map((x) => from(x)) : values;
}

function mixed(stops, x) { // [r, g, b] at 0 <= x <= 1
  const place = Math.min(Math.max(x, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(place), stops.length - 2), part = place - i;
  const at = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
  return [0, 1, 2].map((k) => Math.round((1 - part) * at(stops[i], k) + part * at(stops[i + 1], k)));
}

const css = (rgb) => `rgb(${rgb.join(",")})`;
const lightness = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b) / 255;

function number(x) { // three digits, for people
  if (x === null || x === undefined || !isFinite(x)) return "-";
  const size = Math.abs(x);
  if (size !== 0 && (size < 0.001 || size >= 1e5)) return x.toExponential(1);
  return size >= 100 ? Math.round(x).toLocaleString("en") : String(Number(x.toPrecision(3)));
}

// A scale turns values into 0..1 and back; its ends leave out the outermost percent. A logarithmic
// one spans a factor of 1.5 at least: values that hardly differ look alike.
function makeScale(values, kind, ends) {
  const to = { log: Math.log, sqrt: Math.sqrt, linear: (x) => x }[kind];
  const from = { log: Math.exp, sqrt: (x) => x * x, linear: (x) => x }[kind];
  let low, high;
  if (ends) [low, high] = ends;
  else {
    const sorted = Float64Array.from(values.filter((v) => v !== null && isFinite(v))).sort();
    const at = (q) => sorted[Math.round(q * (sorted.length - 1))];
    [low, high] = sorted.length ? [at(0.01), at(0.99)] : [0, 1];
    const wider = kind === "log" ? Math.max(1, Math.sqrt(1.5 * low / high)) : 1;
    [low, high] = [low / wider, high * wider];
  }
  if (!(high > low)) high = low + (Math.abs(low) || 1) * 1e-6;
  const [a, b] = [to(low), to(high)];
  return { place: (x) => (to(x) - a) / (b - a), value: (p) => from(a + p * (b - a)), low, high };
}

function drawLegend(box, stops, scale, title, note) {
  box.replaceChildren();
  make("div", box, title);
  const bar = make("div", box, undefined, "bar");
  bar.style.background = `linear-gradient(to right, ${stops.join(",")})`;
  const ticks = make("div", box, undefined, "ticks");
  for (const p of [0, 0.25, 0.5, 0.75, 1]) make("span", ticks, number(scale.value(p)));
  if (note) make("div", box, note);
}

function paint(canvas, width, height, colourOf) { // colourOf(index) -> [r, g, b]
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set([...colourOf(i), 255], 4 * i);
  context.putImageData(image, 0, 0);
}

function svg(tag, parent, attributes, text) {
  const found = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  if (text !== undefined) found.textContent = text;
  parent.append(found);
  return found;
}

function niceTicks(low, high) {
  const rough = (high - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + 1e-9 * step; x += step) found.push(x);
  return found;
}

// lines: [{x, y, className}], bands: [{x, low, high}]; x may be logarithmic.
function chart(box, { lines, bands = [], logX = false, xLabel, yLabel, marks = [], yEnds }) {
  box.replaceChildren();
  const W = 420, H = 230, left = 52, right = 24, top = 8, bottom = 40;
  const picture = svg("svg", box, { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": yLabel });
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  const widen = (xs, ys) => {
    for (const v of xs) [x0, x1] = [Math.min(x0, v), Math.max(x1, v)];
    for (const v of ys) if (v !== null) [y0, y1] = [Math.min(y0, v), Math.max(y1, v)];
  };
  lines.forEach((line) => widen(line.x, line.y));
  bands.forEach((band) => { widen(band.x, band.low); widen(band.x, band.high); });
  if (yEnds) [y0, y1] = yEnds;
  if (!(y1 > y0)) [y0, y1] = [y0 - 0.5, y1 + 0.5];
  if (!(x1 > x0)) x1 = x0 + 1;
  const place = (v, a, b) => logX ? Math.log(v / a) / Math.log(b / a) : (v - a) / (b - a);
  const X = (v) => left + (W - left - right) * place(v, x0, x1);
  const Y = (v) => top + (H - top - bottom) * (1 - (v - y0) / (y1 - y0));
  for (const y of niceTicks(y0, y1)) {
    svg("line", picture, { x1: left, x2: W - right, y1: Y(y), y2: Y(y), class: "axis" });
    svg("text", picture, { x: left - 5, y: Y(y) + 4, "text-anchor": "end" }, number(y));
  }
  let ticks = niceTicks(x0, x1);
  if (logX) {
    ticks = [];
    for (let p = Math.ceil(Math.log10(x0)); 10 ** p <= x1; p++) ticks.push(10 ** p);
  }
  for (const x of ticks)
    svg("text", picture, { x: X(x), y: H - bottom + 15, "text-anchor": "middle" },
      x >= 1 ? x.toLocaleString("en") : number(x));
  for (const x of marks.filter((m) => m > x0 && m < x1)) {
    svg("line", picture, { x1: X(x), x2: X(x), y1: top, y2: H - bottom, class: "axis",
      "stroke-dasharray": "4 3" });
    svg("text", picture, { x: X(x) + 3, y: top + 10 }, number(x));
  }
  svg("rect", picture, { x: left, y: top, width: W - left - right, height: H - top - bottom,
    class: "axis" });
  const path = (xs, ys) => xs.map((x, i) => `${X(x).toFixed(1)},${Y(ys[i]).toFixed(1)}`);
  for (const band of bands) {
    const points = [...path(band.x, band.low), ...path(band.x, band.high).reverse()];
    svg("polygon", picture, { points: points.join(" "), class: "band" });
  }
  for (const line of lines)
    svg("polyline", picture, { points: path(line.x, line.y).join(" "), class: line.className });
  svg("text", picture, { x: (left + W - right) / 2, y: H - 6, "text-anchor": "middle" }, xLabel);
  svg("text", picture, { transform: `translate(11 ${(top + H - bottom) / 2}) rotate(-90)`,
    "text-anchor": "middle" }, yLabel);
}
