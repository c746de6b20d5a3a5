// The page of one sequence: what is chosen, and the sequence itself. Uses draw.js and panels.js.

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
  retention: { name: "share of the state kept", scale: "linear", title: "mean of exp(delta A), 0 to 1",
    says: "The share of the old state that is still there behind this step, over all channels " +
      "and states. Weak colour = much is forgotten here." },
  norm: { name: "size of the state", scale: "linear", title: "Euclidean norm of the state",
    says: "How large the layer's state is behind this step." },
  loss: { name: "loss", scale: "linear", title: `nats per ${data.image ? "pixel" : "step"}`,
    says: (data.hidden ? "How badly the model expected what is hidden from all that can be seen: "
      : `How badly the model expected this ${data.image ? "pixel" : "step"} from those before it: `) +
      "strong colour = a surprise" +
      (data.hidden ? `; ${data.image ? "grey" : "no colour"} = it could be seen.` : ".") },
  attention: { name: "attention", scale: "sqrt", title: "attention weight, square-root scale",
    says: "Where the marked step (in orange) looks: strong colour = much is taken from there. Point at " +
      "another step to see where that one looks; click to hold it, click again to let go." },
  attention_received: { name: "attention received", scale: "log", title: "over what is usual for the place, log scale",
    says: "How much the steps look at this one, mean of the heads: 1 is what it would get for where it " +
      "stands, whatever stood there. Strong colour = the layer takes from here." },
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

const isLoss = () => chosen.quantity === "loss";
const perChannel = () => chosen.quantity === "delta" || chosen.quantity === "memory";

function values(layer) { // what colours the steps, of the chosen quantity
  if (isLoss()) return data.loss; // of an image one for each pixel
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
  const common = byId("common").checked && !isLoss();
  const range = common && chosen.channel < 0 ? scans.flatMap((l) => l[chosen.quantity]) : shown;
  const ends = chosen.quantity === "attention" ? [0, Math.max(...shown)] : undefined;
  const scale = makeScale(range, what.scale, ends), stops = SEQUENTIAL[theme()];
  const note = chosen.quantity === "attention" ? "" : "the outermost 1 % of the steps lie beyond either end";
  drawLegend(byId("legend"), stops, scale, what.title, note);
  return shown.map((v) => v === null ? null : mixed(stops, scale.place(v)));
}

function describe(step, pixel = step) {
  const layer = data.layers[chosen.layer], place = `${step + 1} of ${steps}`;
  const rows = [data.text || !data.image ? `${visible(data.labels[step])}   (step ${place})`
    : `step ${place}`];
  const shown = values(layer);
  rows.push(`${QUANTITIES[chosen.quantity].name}: ${number(shown[isLoss() ? pixel : step])}`);
  if (layer.kind === "mamba")
    for (const key of ["delta", "memory", "retention", "norm"])
      if (key !== chosen.quantity || chosen.channel >= 0)
        rows.push(`${QUANTITIES[key].name}, layer: ${number(layer[key][step])}`);
  if (layer.kind !== "mamba" && chosen.quantity !== "attention_received")
    rows.push(`attention received: ${number(layer.attention_received[step])}`);
  const loss = data.loss?.[pixel] ?? null;
  if (loss !== null) {
    if (!isLoss()) rows.push(`loss: ${number(loss)} nats`);
    rows.push(`probability it was given: ${number(100 * Math.exp(-loss))} %`);
    rows.push(`expected most: ${visible(data.guesses[pixel])}`);
  }
  return rows;
}

function showTip(rows, event) {
  const tip = byId("tip");
  tip.hidden = false;
  tip.textContent = rows.join("\n");
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
}

function point(step, event, pixel) {
  const rows = describe(step, pixel);
  byId("hover").textContent = rows.join("  ·  ");
  showTip(rows, event);
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

function reveal(step) { // of a step that was clicked elsewhere: show where it stands
  if (!spans[step]) return;
  spans[step].scrollIntoView({ block: "center" });
  spans[step].classList.add("found");
  setTimeout(() => spans[step].classList.remove("found"), 2500);
}

const UNASKED = [128, 128, 128]; // a pixel without a loss
let spans = [], maps = [];

function buildSubject() {
  const box = byId("subject");
  box.className = data.image ? "image" : data.text ? "text" : "tokens";
  if (data.image) return buildImage(box);
  if (data.text && steps > 400) box.classList.add("long");
  spans = data.labels.map((label, step) => {
    if (step === data.second) make("div", box, "the second text", "divider");
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
    const pixelAt = (event) => {
      const frame = canvas.getBoundingClientRect();
      const column = Math.floor((event.clientX - frame.left) / frame.width * width);
      const row = Math.floor((event.clientY - frame.top) / frame.height * height);
      const inside = (x, most) => Math.min(Math.max(x, 0), most - 1);
      return inside(row, height) * width + inside(column, width);
    };
    const stepAt = (event) => data.image.steps[pixelAt(event)];
    canvas.onmousemove = (event) => point(stepAt(event), event, pixelAt(event));
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
      return attention && step === chosen.query ? [213, 94, 0] : found[isLoss() ? i : step] || UNASKED;
    });
    return;
  }
  spans.forEach((span, step) => {
    const rgb = found[step];
    span.style.background = rgb ? css(rgb) : "transparent";
    span.style.color = rgb ? (lightness(rgb) > 0.55 ? "#11161c" : "#f4f7fa") : "inherit";
    span.classList.toggle("chosen", attention && step === chosen.query);
    const loss = data.loss && byId("surprise").checked ? data.loss[step] : null;
    span.style.boxShadow = loss ? `inset 0 -3px rgba(224, 104, 0, ${Math.min(loss / 4, 1)})` : "none";
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
  const keys = mamba ? ["delta", "memory", "retention", "norm"] : ["attention", "attention_received"];
  if (data.loss) keys.push("loss");
  if (!keys.includes(chosen.quantity)) chosen.quantity = keys[0];
  if ("layer" in changes) [chosen.channel, chosen.head] = [-1, -1];
  fill(byId("layer"), data.layers.map((l, i) => [i, l.name]), chosen.layer);
  fill(byId("quantity"), keys.map((key) => [key, QUANTITIES[key].name]), chosen.quantity);
  byId("channel-box").hidden = !mamba || !perChannel();
  byId("common-box").hidden = scans.length < 2 || !mamba || isLoss()
    || (perChannel() && chosen.channel >= 0);
  byId("head-box").hidden = mamba || chosen.quantity !== "attention" || !layer.all_heads;
  byId("surprise-box").hidden = !data.loss || data.image || isLoss();
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
  drawOverview();
  drawChannels(layer);
  if (scans.length) drawScans();
  if (!mamba) drawMap(layer);
  byId("map-box").hidden = mamba;
  for (const row of document.querySelectorAll("tr[data-layer]"))
    row.classList.toggle("chosen", Number(row.dataset.layer) === chosen.layer);
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
  byId("common").onchange = byId("surprise").onchange = recolour;
  choose({ layer: mostSelective() });
}

function mostSelective() { // the layer whose delta, mean of its channels, varies most
  const spread = (l) => {
    const logs = (l.delta || []).map(Math.log), mean = logs.reduce((a, b) => a + b, 0) / logs.length;
    return logs.reduce((a, b) => a + (b - mean) ** 2, 0) / Math.max(logs.length, 1);
  };
  const spreads = data.layers.map(spread);
  return spreads.indexOf(Math.max(...spreads));
}

start();
