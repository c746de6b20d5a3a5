// The page of one sequence: what is chosen, and what that shows. Uses draw.js.

const data = JSON.parse(byId("data").textContent);
const steps = data.labels.length;
const scans = data.layers.filter((layer) => layer.kind === "mamba");
const chosen = { layer: 0, quantity: "delta", channel: -1, head: -1, query: steps - 1, pinned: false };

const QUANTITIES = {
  delta: { name: "delta (step size)", scale: "log", title: "delta, without unit, log scale",
    says: "Strong colour = delta is large here: this step writes more of itself into the state and " +
      "more of the old state is lost; a channel whose delta is far above 1 is reset. Weak colour = " +
      "delta is small: the state passes by, the step is nearly ignored. Single channels differ " +
      "more than their mean: choose one." },
  memory: { name: "memory length", scale: "log", title: "memory length in steps, log scale",
    says: "How long a state would live if every step were like this one, -1 / (delta A). Strong " +
      "colour = long memory; weak colour = this step makes the layer forget." },
  kept: { name: "share of the state kept", scale: "linear", title: "mean of exp(delta A), 0 to 1",
    says: "The share of the old state that is still there behind this step, over all channels " +
      "and states. Weak colour = much is forgotten here." },
  norm: { name: "size of the state", scale: "linear", title: "Euclidean norm of the state",
    says: "How large the layer's state is behind this step." },
  loss: { name: "loss", scale: "linear", title: "nats per character",
    says: "How badly the model expected this character from those before it: strong colour = a " +
      "surprise." },
  attention: { name: "attention", scale: "sqrt", title: "attention weight, square-root scale",
    says: "Where the marked step (in orange) looks: strong colour = much is taken from there. Point at " +
      "another step to see where that one looks; click to hold it, click again to let go." },
};

function visible(label) {
  return { "\n": "line end", " ": "blank", "\t": "tab" }[label] || label;
}

function decoded(layer) { // arrays of a layer, decoded once
  if (!layer.ready)
    layer.ready = layer.kind === "mamba"
      ? { delta: unpack(layer.channel_delta) } : { weights: unpack(layer.weights) };
  return layer.ready;
}

function channelValues(layer, row, quantity) {
  const delta = decoded(layer).delta.subarray(row * steps, (row + 1) * steps);
  if (quantity === "delta") return Array.from(delta);
  const mean = delta.reduce((a, b) => a + b, 0) / steps;
  return Array.from(delta, (d) => layer.channel_memory[row] * mean / d);
}

function weightsOf(layer, head) { // (steps * steps), head -1 is their mean
  const all = decoded(layer).weights, size = steps * steps;
  if (all.length === size) return all;
  if (head >= 0) return all.subarray(head * size, (head + 1) * size);
  if (!layer.mean) {
    layer.mean = new Float32Array(size);
    for (let i = 0; i < all.length; i++) layer.mean[i % size] += all[i] / layer.heads;
  }
  return layer.mean;
}

const perChannel = () => chosen.quantity === "delta" || chosen.quantity === "memory";

function values(layer) { // what colours the steps, of the chosen quantity
  if (chosen.quantity === "loss") return data.loss;
  if (chosen.quantity === "attention") {
    const from = chosen.query * steps;
    return Array.from(weightsOf(layer, chosen.head).subarray(from, from + steps));
  }
  if (perChannel() && chosen.channel >= 0 && layer === data.layers[chosen.layer])
    return channelValues(layer, chosen.channel, chosen.quantity);
  return layer[chosen.quantity];
}

function colours() { // a colour for each step, and the legend
  const layer = data.layers[chosen.layer], what = QUANTITIES[chosen.quantity];
  const shown = values(layer);
  const common = byId("common").checked && chosen.quantity !== "loss";
  const range = common && chosen.channel < 0 ? scans.flatMap((l) => l[chosen.quantity]) : shown;
  const ends = chosen.quantity === "attention" ? [0, Math.max(...shown)] : undefined;
  const scale = makeScale(range, what.scale, ends), stops = SEQUENTIAL[theme()];
  const note = chosen.quantity === "attention" ? "" : "the outermost 1 % of the steps lie beyond either end";
  drawLegend(byId("legend"), stops, scale, what.title, note);
  return shown.map((v) => v === null ? null : mixed(stops, scale.place(v)));
}

function describe(step) {
  const layer = data.layers[chosen.layer], place = `${step + 1} of ${steps}`;
  const rows = [data.text || !data.image ? `${visible(data.labels[step])}   (step ${place})`
    : `step ${place}`];
  const shown = values(layer);
  rows.push(`${QUANTITIES[chosen.quantity].name}: ${number(shown[step])}`);
  if (layer.kind === "mamba")
    for (const key of ["delta", "memory", "kept", "norm"])
      if (key !== chosen.quantity || chosen.channel >= 0)
        rows.push(`${QUANTITIES[key].name}, layer: ${number(layer[key][step])}`);
  if (data.loss && data.loss[step] !== null) {
    if (chosen.quantity !== "loss") rows.push(`loss: ${number(data.loss[step])} nats`);
    rows.push(`probability it was given: ${number(100 * Math.exp(-data.loss[step]))} %`);
    rows.push(`expected most: ${visible(data.guesses[step])}`);
  }
  return rows;
}

function point(step, event) {
  const tip = byId("tip"), rows = describe(step);
  byId("hover").textContent = rows.join("  ·  ");
  tip.hidden = false;
  tip.textContent = rows.join("\n");
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  if (chosen.quantity === "attention" && !chosen.pinned && chosen.query !== step) {
    chosen.query = step;
    recolour();
  }
}

function pin(step) {
  if (chosen.quantity !== "attention") return;
  chosen.pinned = !(chosen.pinned && chosen.query === step);
  chosen.query = step;
  recolour();
}

let spans = [], maps = [];

function buildSubject() {
  const box = byId("subject");
  box.className = data.image ? "image" : data.text ? "text" : "tokens";
  if (data.image) return buildImage(box);
  spans = data.labels.map((label, step) => {
    const span = make("span", box, label === "\n" ? "↵" : label);
    if (label === "\n") box.append("\n");
    span.onmousemove = (event) => point(step, event);
    span.onclick = () => pin(step);
    return span;
  });
  box.onmouseleave = () => { byId("tip").hidden = true; };
}

function buildImage(box) {
  const [height, width, channels] = data.image.shape, pixels = bytes(data.image);
  const size = Math.max(1, Math.floor(384 / Math.max(height, width)));
  for (const caption of ["the image", "the same, coloured"]) {
    const figure = make("figure", box);
    make("figcaption", figure, caption);
    const canvas = make("canvas", figure);
    canvas.style.width = `${size * width}px`;
    maps.push(canvas);
    const stepAt = (event) => {
      const frame = canvas.getBoundingClientRect();
      const column = Math.floor((event.clientX - frame.left) / frame.width * width);
      const row = Math.floor((event.clientY - frame.top) / frame.height * height);
      const inside = (x, most) => Math.min(Math.max(x, 0), most - 1);
      return data.image.steps[inside(row, height) * width + inside(column, width)];
    };
    canvas.onmousemove = (event) => point(stepAt(event), event);
    canvas.onclick = (event) => pin(stepAt(event));
    canvas.onmouseleave = () => { byId("tip").hidden = true; };
  }
  paint(maps[0], width, height, (i) =>
    [0, 1, 2].map((k) => pixels[i * channels + (channels === 3 ? k : 0)]));
}

function recolour() {
  const found = colours(), attention = chosen.quantity === "attention";
  if (data.image) {
    const [height, width] = data.image.shape;
    paint(maps[1], width, height, (i) => {
      const step = data.image.steps[i];
      return attention && step === chosen.query ? [213, 94, 0] : found[step];
    });
    return;
  }
  spans.forEach((span, step) => {
    const rgb = found[step];
    span.style.background = rgb ? css(rgb) : "transparent";
    span.style.color = rgb ? (lightness(rgb) > 0.55 ? "#11161c" : "#f4f7fa") : "inherit";
    span.classList.toggle("chosen", attention && step === chosen.query);
  });
}

function fill(select, pairs, value) {
  select.replaceChildren();
  for (const [key, text] of pairs) make("option", select, text).value = key;
  select.value = value;
}

function choose(changes) { // a choice was made: set what goes with it, show it
  Object.assign(chosen, changes);
  const layer = data.layers[chosen.layer], mamba = layer.kind === "mamba";
  const keys = mamba ? ["delta", "memory", "kept", "norm"] : ["attention"];
  if (data.loss) keys.push("loss");
  if (!keys.includes(chosen.quantity)) chosen.quantity = keys[0];
  if ("layer" in changes) [chosen.channel, chosen.head] = [-1, -1];
  fill(byId("layer"), data.layers.map((l, i) => [i, l.name]), chosen.layer);
  fill(byId("quantity"), keys.map((key) => [key, QUANTITIES[key].name]), chosen.quantity);
  byId("channel-box").hidden = !mamba || !perChannel();
  byId("common-box").hidden = scans.length < 2 || !mamba || chosen.quantity === "loss"
    || (perChannel() && chosen.channel >= 0);
  byId("head-box").hidden = mamba || chosen.quantity === "loss" || !layer.all_heads;
  if (mamba) {
    const few = layer.channels.length < layer.channels_of;
    const first = chosen.quantity === "memory" ? "median of all channels" : "mean of all channels";
    fill(byId("channel"), [[-1, first],
      ...layer.channels.map((c, i) => [i, `${c}${i < 3 ? " (varies much)" : ""}, ` +
        `memory ${number(layer.channel_memory[i])}`])], chosen.channel);
    byId("channel").title = few ? `the ${layer.channels.length} of ${layer.channels_of} ` +
      "channels that vary most" : "those that vary most come first";
  } else if (layer.all_heads) {
    fill(byId("head"), [[-1, "mean of all heads"],
      ...Array.from({ length: layer.heads }, (_, h) => [h, `head ${h + 1}`])], chosen.head);
  }
  byId("meaning").textContent = QUANTITIES[chosen.quantity].says;
  recolour();
  if (scans.length) drawScans();
  if (!mamba) drawMap(layer);
  for (const row of document.querySelectorAll("tr[data-layer]"))
    row.classList.toggle("chosen", Number(row.dataset.layer) === chosen.layer);
}

function row(table, cells, layer) {
  const line = make("tr", table);
  for (const cell of cells) {
    const box = make("td", line, Array.isArray(cell) ? undefined : cell);
    if (!Array.isArray(cell)) continue;
    box.className = "left";
    for (const [label, mean, count] of cell) {
      const pair = make("span", box);
      make("code", pair, label).title = `mean delta ${number(mean)}, occurs ${count} times`;
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
  byId("scans").hidden = !scans.length;
  byId("named").hidden = !scans.some((l) => l.highest.length);
  byId("attentions").hidden = scans.length === data.layers.length;
  const named = scans.some((l) => l.highest.length);
  const names = ["layer", "median memory", ...data.long.map((n) => `longer than ${n}`), "A_log moved"];
  const body = head(byId("table"), named ? [...names, " highest delta", " lowest delta"] : names);
  const other = head(byId("heads"), ["layer", "heads", "mean distance of each head"]);
  data.layers.forEach((l, i) => {
    if (l.kind !== "mamba") {
      row(other, [l.name, l.heads, l.distance.map(number).join(", ")], i);
      return;
    }
    const shares = l.shares.map((s) => `${Math.round(100 * s)} %`);
    const cells = [l.name, number(l.median), ...shares, number(l.moved_typical)];
    row(body, named ? [...cells, l.highest, l.lowest] : cells, i);
  });
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
  const [q05, q25, q50, q75, q95] = current.moved_quantiles, n = q50.map((_, i) => i + 1);
  chart(byId("bands"), { xLabel: "state n", yLabel: "change of A_log",
    bands: [{ x: n, low: q05, high: q95 }, { x: n, low: q25, high: q75 }],
    lines: [{ x: n, y: q50, className: "main" }, { x: n, y: n.map(() => 0), className: "other" }] });
  const [rows, columns] = current.moved.shape, moved = unpack(current.moved);
  const scale = makeScale([], "linear", [current.moved.low, current.moved.high]);
  const box = byId("moved"), stops = DIVERGING[theme()];
  box.replaceChildren();
  const canvas = make("canvas", box);
  canvas.style.cssText = "width: 100%; height: 15rem";
  paint(canvas, columns, rows, (i) => mixed(stops, scale.place(moved[i])));
  drawLegend(byId("moved-legend"), stops, scale, "change of A_log");
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
}

function start() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").onclick = () => {
    document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
    choose({});
  };
  byId("reading").textContent = data.title;
  for (const [name, value] of data.facts) {
    const fact = make("span", byId("facts"));
    make("b", fact, `${name}: `);
    fact.append(value);
  }
  buildSubject();
  buildTables();
  byId("layer").onchange = (e) => choose({ layer: Number(e.target.value) });
  byId("quantity").onchange = (e) => choose({ quantity: e.target.value });
  byId("channel").onchange = (e) => choose({ channel: Number(e.target.value) });
  byId("head").onchange = (e) => choose({ head: Number(e.target.value) });
  byId("common").onchange = () => choose({});
  choose({ layer: 0 });
}

start();
