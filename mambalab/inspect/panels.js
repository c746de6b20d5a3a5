// Tables and charts of all layers, for what is chosen. Uses draw.js; page.js calls it.

function row(table, cells, layer) {
  const line = make("tr", table);
  for (const cell of cells) {
    const box = make("td", line, Array.isArray(cell) ? undefined : cell);
    if (!Array.isArray(cell)) continue;
    box.className = "left";
    for (const [label, mean, count] of cell) {
      const pair = make("span", box);
      make("code", pair, label).title = `mean ${number(mean)}, occurs ${count} times`;
      make("small", pair, `${number(mean)} (${count}×)`);
      box.append(" ");
    }
  }
  line.dataset.layer = layer;
  line.onclick = () => choose({ layer });
}

function head(table, names) {
  const line = make("tr", make("thead", table));
  for (const name of names) make("th", line, name, name.startsWith(" ") ? "left" : "");
  return make("tbody", table);
}

function buildTables() {
  const named = data.layers.some((l) => l.highest.length);
  byId("scans").hidden = !scans.length;
  byId("named").hidden = byId("named-seen").hidden = !named;
  byId("attentions").hidden = scans.length === data.layers.length;
  const names = ["layer", "median memory", ...data.long.map((n) => `longer than ${n}`), "A_log moved"];
  const body = head(byId("table"), named ? [...names, " highest delta", " lowest delta"] : names);
  const heads = ["layer", "heads", "mean distance of each head"];
  const other = head(byId("heads"), named ? [...heads, " most looked at", " least looked at"] : heads);
  data.layers.forEach((l, i) => {
    const ends = named ? [l.highest, l.lowest] : [];
    if (l.kind !== "mamba") {
      row(other, [l.name, l.heads, l.distance.map(number).join(", "), ...ends], i);
      return;
    }
    const shares = l.shares.map((s) => `${Math.round(100 * s)} %`);
    row(body, [l.name, number(l.median), ...shares, number(l.A_log_shift_median), ...ends], i);
  });
}

// A canvas as wide as the page whose columns are steps; pointing and clicking name row and step.
function stepCanvas(box, rows, height, colourOf, onPoint, onClick) {
  const canvas = make("canvas", box, undefined, "steps");
  canvas.style.height = `${height}px`;
  if (steps > 1000) canvas.style.imageRendering = "auto";
  paint(canvas, steps, rows, colourOf);
  const at = (event) => {
    const frame = canvas.getBoundingClientRect();
    const inside = (x, most) => Math.min(Math.max(Math.floor(x * most), 0), most - 1);
    return [inside((event.clientY - frame.top) / frame.height, rows),
      inside((event.clientX - frame.left) / frame.width, steps)];
  };
  canvas.onmousemove = (event) => onPoint(...at(event), event);
  canvas.onclick = (event) => onClick(...at(event));
  canvas.onmouseleave = () => { byId("tip").hidden = true; };
  return canvas;
}

function drawOverview() { // a row a layer, each with a scale of its own
  const box = byId("overview"), stops = SEQUENTIAL[theme()];
  const rows = data.layers.map((l) => l.kind === "mamba" ? l.delta : l.attention_received);
  const scales = rows.map((r) => makeScale(r, "log"));
  box.replaceChildren();
  const names = make("div", box, undefined, "names");
  data.layers.forEach((l, i) => {
    const name = make("div", names, l.name, i === chosen.layer ? "chosen" : "");
    name.onclick = () => choose({ layer: i });
  });
  stepCanvas(box, rows.length, 24 * rows.length,
    (i) => {
      const layer = Math.floor(i / steps);
      return mixed(stops, scales[layer].place(rows[layer][i % steps]));
    },
    (layer, step, event) => showTip([data.layers[layer].name, ...describe(step).slice(0, 1),
      `${data.layers[layer].kind === "mamba" ? "delta" : "received"}: ${number(rows[layer][step])}`],
      event),
    (layer, step) => { choose({ layer }); reveal(step); });
}

function drawChannels(layer) { // a row a channel, over the channel's own mean
  const box = byId("channels"), stops = DIVERGING[theme()];
  byId("channels-box").hidden = layer.kind !== "mamba";
  box.replaceChildren();
  if (layer.kind !== "mamba") return;
  const delta = decoded(layer).delta, rows = layer.channels.length, logs = delta.map(Math.log);
  const means = layer.channels.map((_, c) =>
    logs.subarray(c * steps, (c + 1) * steps).reduce((a, b) => a + b, 0) / steps);
  const apart = logs.map((v, i) => v - means[Math.floor(i / steps)]);
  const most = Float32Array.from(apart, Math.abs).sort()[Math.floor(0.99 * (apart.length - 1))];
  const end = Math.exp(Math.max(most, 0.01));
  const scale = makeScale([], "log", [1 / end, end]);
  stepCanvas(box, rows, Math.min(2 * rows, 320), (i) => mixed(stops, scale.place(Math.exp(apart[i]))),
    (c, step, event) => showTip([`channel ${layer.channels[c]}`, ...describe(step).slice(0, 1),
      `delta: ${number(delta[c * steps + step])}`,
      `memory length: ${number(layer.channel_memory[c])} steps`], event),
    (c, step) => { choose({ channel: c, quantity: "delta" }); reveal(step); });
  drawLegend(byId("channels-legend"), stops, scale, "delta over the channel's geometric mean, log scale");
}

function drawScans() {
  const current = data.layers[chosen.layer].kind === "mamba" ? data.layers[chosen.layer] : scans[0];
  const ordered = [...scans.filter((l) => l !== current), current];
  const style = (l) => l === current ? "main" : "other";
  const share = (l) => l.lengths.map((_, i) => 1 - i / l.lengths.length);
  chart(byId("survival"), { logX: true, marks: data.long, yEnds: [0, 1],
    lines: ordered.map((l) => ({ x: l.lengths, y: share(l), className: style(l) })),
    xLabel: "memory length (steps, log scale)", yLabel: "share of channels" });
  const places = data.labels.map((_, i) => i + 1);
  chart(byId("norms"), { xLabel: "step", yLabel: "norm of the state",
    lines: ordered.map((l) => ({ x: places, y: l.norm, className: style(l) })) });
  const [q05, q25, q50, q75, q95] = current.A_log_shift_quantiles, n = q50.map((_, i) => i + 1);
  chart(byId("bands"), { xLabel: "state n", yLabel: "change of A_log",
    bands: [{ x: n, low: q05, high: q95 }, { x: n, low: q25, high: q75 }],
    lines: [{ x: n, y: q50, className: "main" }, { x: n, y: n.map(() => 0), className: "other" }] });
  chart(byId("spread"), { xLabel: "change of A_log", yLabel: "share of all states",
    lines: ordered.map((l) => ({ ...histogram(l), className: style(l) })) });
  const [rows, columns] = current.A_log_shift.shape, shift = unpack(current.A_log_shift);
  const scale = makeScale([], "linear", [current.A_log_shift.low, current.A_log_shift.high]);
  const box = byId("shift"), stops = DIVERGING[theme()];
  box.replaceChildren();
  const canvas = make("canvas", box);
  canvas.style.cssText = "width: 100%; height: 15rem";
  paint(canvas, columns, rows, (i) => mixed(stops, scale.place(shift[i])));
  drawLegend(byId("shift-legend"), stops, scale, "change of A_log");
}

function histogram(layer) { // of the change of A_log, on bins common to all layers
  const bins = 41, most = Math.max(...scans.map((l) => l.A_log_shift.high), 1e-6);
  const counts = new Array(bins).fill(0), shift = unpack(layer.A_log_shift);
  for (const v of shift) counts[Math.min(Math.floor((v / most + 1) / 2 * bins), bins - 1)]++;
  return { x: counts.map((_, i) => most * ((2 * i + 1) / bins - 1)),
    y: counts.map((c) => c / shift.length) };
}

function drawMap(layer) {
  const weights = weightsOf(layer, chosen.head), stops = SEQUENTIAL[theme()];
  const most = weights.reduce((a, b) => Math.max(a, b), 0), box = byId("map");
  const scale = makeScale([], "sqrt", [0, most]);
  box.replaceChildren();
  const canvas = make("canvas", box);
  canvas.style.width = "26rem";
  paint(canvas, steps, steps, (i) => mixed(stops, scale.place(weights[i])));
  const legend = make("div", box, undefined, "quiet");
  drawLegend(legend, stops, scale, "attention weight, square-root scale");
  const tell = (event) => {
    const frame = canvas.getBoundingClientRect();
    const inside = (x) => Math.min(Math.max(Math.floor(x * steps), 0), steps - 1);
    const to = inside((event.clientX - frame.left) / frame.width);
    const from = inside((event.clientY - frame.top) / frame.height);
    showTip([`from step ${from + 1}: ${visible(data.labels[from])}`,
      `to step ${to + 1}: ${visible(data.labels[to])}`,
      `weight: ${number(weights[from * steps + to])}`], event);
  };
  canvas.onmousemove = tell;
  canvas.onmouseleave = () => { byId("tip").hidden = true; };
}
