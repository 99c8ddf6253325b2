// The page: a pad, what was read of it, and where the reader looked. engine.js reads, in a worker.
"use strict";

const BEAM = 5;
const LARGEST = 2 ** 22; // pixels of a picture that is read; a larger one is scaled down
const UNDOS = 100, // pages that undo goes back to
  PICTURES = 3; // of these with a picture, which takes up to 32 MB
const $ = id => document.getElementById(id);
const paper = $("paper"),
  heat = $("heat"),
  sheet = $("sheet");

// What lies on the paper, strokes [[[x, y], ...], ...] in CSS pixels or a picture, with `mine`, its
// LaTeX where that was corrected by hand; and what did.
let page = { strokes: [], picture: null },
  history = [],
  current = null;
let reading = { readings: [], chosen: 0, place: null, maps: null, seen: null };
let worker = null,
  ready = false,
  asked = 0,
  busy = false,
  waiting = false;

// ---- the worker --------------------------------------------------------------------------------

async function unpacked(text) {
  // base64 of gzip, so that the page opens from a file, where nothing can be fetched
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  return new Response(
    new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")),
  ).arrayBuffer();
}

async function start() {
  worker = new Worker(URL.createObjectURL(new Blob([ENGINE.code], { type: "text/javascript" })));
  worker.onmessage = ({ data }) => RECEIVED[data.kind](data);
  worker.onerror = event => say(`The reader failed: ${event.message}`, true);
  const [wasm, encoder, decoder] = await Promise.all(
    [WASM, MODEL.encoder, MODEL.decoder].map(unpacked),
  );
  worker.postMessage(
    { kind: "load", glue: ENGINE.glue, wasm, encoder, decoder, card: MODEL.card },
    [wasm, encoder, decoder],
  );
}

const RECEIVED = {
  load({ error }) {
    if (error) return say(`The reader could not be loaded: ${error}`, true);
    ready = true;
    Object.assign(document.documentElement.dataset, { ready: "yes", read: asked });
    say("Ready.");
    if (busy || waiting) ask();
  },
  read(data) {
    busy = false;
    if (waiting) return ask(); // the paper has changed since
    if (data.id === asked) show(data);
  },
  attend({ id, maps, place, error }) {
    if (error || id !== asked) return;
    reading.maps = maps;
    reading.place = place;
    if (document.activeElement?.dataset.at) light(Number(document.activeElement.dataset.at));
  },
};

/** Read what lies on the paper, now or as soon as the reader is free. */
function ask() {
  waiting = false;
  asked++;
  light(null);
  if (!page.strokes.length && !page.picture) return show({ readings: [] });
  if (!ready || busy) {
    waiting = true;
    return;
  }
  busy = true;
  $("formula").classList.add("old");
  worker.postMessage({
    kind: "read",
    id: asked,
    beam: BEAM,
    strokes: page.strokes,
    picture: page.picture?.pixels,
  });
}

// ---- what was read -----------------------------------------------------------------------------

const TOKEN = /\\(?:[a-z]+|.)|\S/gis;
const line = $("latex"); // what stands in it is typeset and copied

const percent = share => `${Math.round(100 * share)} %`;

/** LaTeX of ids as one would type it: a space only where a command would run into a letter. */
function pretty(ids) {
  let text = "",
    before = "";
  for (const id of ids) {
    const token =
      { "\\lt": "<", "\\gt": ">" }[MODEL.card.vocabulary[id]] ?? MODEL.card.vocabulary[id];
    text += (/^\\.*[a-z]$/i.test(before) && /^[a-z]/i.test(token) ? " " : "") + token;
    before = token;
  }
  return text;
}

function typeset(latex, output, displayMode = false) {
  return katex.renderToString(latex, { output, displayMode, throwOnError: true, strict: "ignore" });
}

/** Why LaTeX cannot be typeset; nothing where it can. */
function fault(latex) {
  try {
    typeset(latex, "mathml");
    return "";
  } catch (error) {
    return error.message.replace(/^KaTeX parse error: /, "");
  }
}

/** LaTeX typeset, or as code. */
function math(latex) {
  const span = document.createElement("span");
  if (fault(latex)) span.textContent = latex;
  else span.innerHTML = typeset(latex, "html");
  return span;
}

function show({ readings = [], refusal, error, place, seen }) {
  const named = readings.map(r => ({
    ...r,
    latex: pretty(r.ids),
    sure: confidence([r, ...readings.filter(other => other !== r)], MODEL.card.confidence),
  }));
  reading = {
    readings: [...named.filter(r => !fault(r.latex)), ...named.filter(r => fault(r.latex))],
    chosen: 0,
    place,
    seen,
    maps: null,
  };
  $("formula").classList.remove("old");
  $("readings").replaceChildren(...reading.readings.slice(0, BEAM).map(choice));
  choose(0);
  if (named.length && page.mine !== undefined) takeMine(); // undo has brought it back
  paintSeen();
  if (refusal || error) say(refusal ?? `It could not be read: ${error}`, true);
  document.documentElement.dataset.read = asked;
}

function choice(each, index) {
  const label = document.createElement("label"),
    radio = document.createElement("input"),
    score = document.createElement("span");
  Object.assign(radio, { type: "radio", name: "reading", value: index, checked: !index });
  radio.setAttribute("aria-label", each.latex);
  radio.onchange = () => choose(index);
  score.className = "score";
  // Only the best reading's chance was fitted.
  score.textContent = each.sure && !index ? percent(each.sure.whole) : "";
  label.append(radio, math(each.latex), score);
  return label;
}

/** Take a reading as it is. */
function choose(index) {
  const best = reading.readings[index];
  reading.chosen = index;
  reading.maps = null;
  light(null);
  $("found").hidden = !best;
  line.value = best?.latex ?? "";
  update();
  if (best) worker.postMessage({ kind: "attend", id: asked, ids: best.ids });
  else say(ready ? "Ready." : "Loading the reader…");
}

/** Take what was corrected by hand. */
function takeMine() {
  line.value = page.mine;
  update();
}

line.oninput = () => {
  page.mine = line.value === reading.readings[reading.chosen].latex ? undefined : line.value;
  update();
};
$("mine").querySelector("input").onchange = takeMine;

/** Show what stands in the line: the formula, its tokens, and how sure the reader is of it. */
function update() {
  const best = reading.readings[reading.chosen],
    latex = line.value,
    wrong = fault(latex),
    own = latex === best?.latex;
  for (const radio of document.getElementsByName("reading"))
    radio.checked = radio.value === (own ? String(reading.chosen) : "mine");
  $("mine").hidden = page.mine === undefined;
  $("mine").children[1].replaceWith(math(page.mine ?? ""));
  if (!wrong) $("formula").innerHTML = best ? typeset(latex, "htmlAndMathml", true) : "";
  $("formula").classList.toggle("old", Boolean(wrong));
  fitFormula();
  const tokens = [...latex.matchAll(TOKEN)];
  const known = new Map(
    best
      ? matches(
          tokens.map(found => found[0]),
          best.latex.match(TOKEN) ?? [],
        )
      : [],
  );
  $("tokens").replaceChildren(...tokens.map((found, k) => tokenOf(found, k, known.get(k))));
  $("copy-latex").disabled = !latex.trim();
  $("copy-mathml").disabled = Boolean(wrong || !latex.trim());
  $("copied").textContent = "";
  $("by-hand").hidden = true;
  if (!best) return;
  const sure = best.sure?.whole,
    doubtful = own && !reading.chosen && sure < DOUBTFUL;
  if (wrong) say(`Not typeset: ${wrong}`);
  else if (!own) say("Corrected by hand.");
  else if (reading.chosen) say("Another reading, less likely than the first.");
  else if (doubtful) say(`Doubtful, ${percent(sure)} sure: check every sign.`);
  else say(sure === undefined ? "Read." : `${percent(sure)} sure.`);
  $("status").classList.toggle("doubtful", doubtful);
  if (own) $("status").append(hiddenText(` LaTeX: ${latex}`));
}

/** Text for those who hear the page. */
function hiddenText(text) {
  const span = document.createElement("span");
  span.className = "heard";
  span.textContent = text;
  return span;
}

/** A token of the line: place `k` there, place `at` in the reading; none if it was corrected. */
function tokenOf(found, k, at) {
  const button = document.createElement("button"),
    sure = reading.readings[reading.chosen].sure?.tokens[at];
  Object.assign(button, { type: "button", textContent: found[0], tabIndex: k ? -1 : 0 });
  button.title = `${sure === undefined ? "" : `${percent(sure)} sure; `}click to correct`;
  button.dataset.at = at ?? "";
  if (sure !== undefined) button.style.setProperty("--doubt", Math.min(1, 1.6 * (1 - sure)));
  button.onpointerenter = button.onfocus = () => light(at ?? null);
  button.onpointerleave = button.onblur = () => light(null);
  button.onclick = () => {
    line.focus();
    line.setSelectionRange(found.index, found.index + found[0].length);
    light(at ?? null);
  };
  return button;
}

line.onblur = () => light(null);

// One stop for Tab, arrows within.
$("tokens").addEventListener("keydown", event => {
  const step = { ArrowRight: "nextSibling", ArrowLeft: "previousSibling" }[event.key],
    target = step && event.target[step];
  if (!target) return;
  event.target.tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
  event.preventDefault();
});

/** A formula breaks after its relations and signs; what is still too wide is drawn smaller. */
function fitFormula() {
  const formula = $("formula");
  formula.style.fontSize = "";
  const size = parseFloat(getComputedStyle(formula).fontSize),
    share = formula.clientWidth / formula.scrollWidth;
  if (share < 1) formula.style.fontSize = `${Math.max(10, 0.98 * share * size)}px`;
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").className = wrong ? "wrong" : "";
}

/** Copy, or where the browser forbids it, show the text selected. */
async function copy(text, what) {
  const box = $("by-hand"),
    before = document.activeElement;
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    box.hidden = false;
    box.value = text;
    box.select();
    copied = document.execCommand("copy");
  }
  box.hidden = copied;
  if (copied) before.focus();
  $("copied").textContent = copied
    ? `${what} copied.`
    : `The browser does not let this page copy: press Ctrl+C to copy the ${what} below.`;
}

$("copy-latex").onclick = () => copy(line.value, "LaTeX");
$("copy-mathml").onclick = () => {
  const box = document.createElement("div");
  box.innerHTML = typeset(line.value, "mathml", true);
  box.querySelector("annotation").remove(); // Word takes MathML, not KaTeX's note of its LaTeX
  box.querySelector("semantics").replaceWith(box.querySelector("semantics > *"));
  copy(box.querySelector("math").outerHTML, "MathML");
};

// ---- the paper ---------------------------------------------------------------------------------

/** From picture pixels to the paper: a picture is shown whole, in the middle. */
function fit(picture) {
  const scale = Math.min(sheet.clientWidth / picture.width, sheet.clientHeight / picture.height, 2);
  return {
    scale,
    left: (sheet.clientWidth - scale * picture.width) / 2,
    top: (sheet.clientHeight - scale * picture.height) / 2,
  };
}

function clean(canvas) {
  const sharp = window.devicePixelRatio || 1,
    context = canvas.getContext("2d");
  canvas.width = sheet.clientWidth * sharp;
  canvas.height = sheet.clientHeight * sharp;
  context.setTransform(sharp, 0, 0, sharp, 0, 0);
  return context;
}

function paint() {
  const context = clean(paper),
    colour = getComputedStyle(document.body).getPropertyValue("--ink");
  if (page.picture) {
    const { scale, left, top } = fit(page.picture.image);
    context.drawImage(
      page.picture.image,
      left,
      top,
      scale * page.picture.image.width,
      scale * page.picture.image.height,
    );
  }
  Object.assign(context, {
    lineWidth: 3,
    lineCap: "round",
    lineJoin: "round",
    strokeStyle: colour,
  });
  for (const stroke of current ? [...page.strokes, current] : page.strokes) {
    context.beginPath();
    stroke.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (stroke.length === 1) context.lineTo(...stroke[0]); // a dot
    context.stroke();
  }
  const count = page.strokes.length;
  paper.setAttribute(
    "aria-label",
    page.picture
      ? "Paper with a picture"
      : count
        ? `Paper, ${count} stroke${count > 1 ? "s" : ""}`
        : "Paper, empty",
  );
  $("hint").hidden = Boolean(count || page.picture || current);
  $("undo").disabled = !history.length;
  $("clear").disabled = !count && !page.picture;
}

/** Show the ink that was found in a picture, in the pen that the reader sees. */
function paintSeen() {
  const { seen } = reading;
  $("seen").hidden = !seen;
  if (!seen) return;
  const { xy, stroke, size } = seen,
    margin = 0.4 * size,
    canvas = $("ink"),
    { pen, symbol } = MODEL.card.config.view,
    sharp = window.devicePixelRatio || 1;
  const low = [Infinity, Infinity],
    high = [-Infinity, -Infinity];
  xy.forEach((v, i) => {
    low[i % 2] = Math.min(low[i % 2], v - margin);
    high[i % 2] = Math.max(high[i % 2], v + margin);
  });
  const [wide, tall] = [high[0] - low[0], high[1] - low[1]],
    scale = Math.min($("seen").clientWidth / wide, 200 / tall, 2);
  canvas.style.width = `${scale * wide}px`;
  canvas.width = scale * wide * sharp;
  canvas.height = scale * tall * sharp;
  const context = canvas.getContext("2d");
  context.scale(scale * sharp, scale * sharp);
  context.translate(-low[0], -low[1]);
  Object.assign(context, {
    lineWidth: (((pen[0] + pen[1]) / 2) * size) / symbol,
    lineCap: "round",
    strokeStyle: getComputedStyle(document.body).getPropertyValue("--ink"),
  });
  context.beginPath();
  for (let i = 0; i < stroke.length; i++) {
    const joined = stroke[i - 1] === stroke[i];
    if (!joined) context.moveTo(xy[2 * i], xy[2 * i + 1]);
    if (joined || stroke[i + 1] !== stroke[i]) context.lineTo(xy[2 * i], xy[2 * i + 1]);
  }
  context.stroke();
}

/** Show where the reader looked for the token at this place of the text; nothing for null. */
function light(at) {
  const context = clean(heat),
    map = at === null ? null : reading.maps?.[at];
  if (!map) return;
  const { scale, left, top, width, back } = reading.place,
    cell = 8 / scale,
    columns = width / 8,
    most = Math.max(...map);
  const colour = getComputedStyle(document.body).getPropertyValue("--heat");
  const shown = page.picture ? fit(page.picture.image) : { scale: 1, left: 0, top: 0 };
  const ratio = page.picture
      ? (page.picture.image.width / page.picture.pixels.width) * shown.scale
      : 1;
  context.translate(shown.left, shown.top);
  context.scale(ratio, ratio);
  if (back) context.transform(...back);
  map.forEach((weight, i) => {
    if (weight < 0.02 * most) return;
    const x = left + (i % columns) * cell,
      y = top + Math.floor(i / columns) * cell;
    context.fillStyle = `rgb(${colour} / ${(0.65 * weight) / most})`;
    context.beginPath();
    context.roundRect(x, y, cell, cell, cell / 4);
    context.fill();
  });
}

function change(next) {
  history.push(page);
  while (history.length > UNDOS || history.filter(old => old.picture).length > PICTURES)
    history.shift().picture?.image.close();
  page = next;
  paint();
  ask();
}

const at = event => {
  const box = paper.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

paper.addEventListener("pointerdown", event => {
  if (event.button || current) return;
  paper.setPointerCapture(event.pointerId);
  current = Object.assign([at(event)], { pointer: event.pointerId });
  light(null);
  paint();
  event.preventDefault();
  paper.focus({ preventScroll: true, focusVisible: false });
});
paper.addEventListener("pointermove", event => {
  if (event.pointerId !== current?.pointer) return;
  const seen = event.getCoalescedEvents?.() ?? [];
  for (const point of (seen.length ? seen : [event]).map(at)) {
    const [x, y] = current[current.length - 1];
    if (point[0] !== x || point[1] !== y) current.push(point);
  }
  paint();
});
for (const end of ["pointerup", "pointercancel"]) {
  paper.addEventListener(end, event => {
    if (event.pointerId !== current?.pointer) return;
    const stroke = [...current];
    current = null;
    if (end === "pointerup") change({ strokes: [...page.strokes, stroke], picture: null });
    else paint();
  });
}

function undo() {
  if (history.length) {
    page.picture?.image.close();
    page = history.pop();
    paint();
    ask();
  }
}
function clear() {
  if (page.strokes.length || page.picture) change({ strokes: [], picture: null });
}

$("undo").onclick = undo;
$("clear").onclick = clear;
document.addEventListener("keydown", event => {
  if (event.target.tagName === "TEXTAREA") return; // it has an undo of its own
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z") {
    undo();
    event.preventDefault();
  }
  if (event.target === paper && ["Delete", "Backspace"].includes(event.key)) {
    clear();
    event.preventDefault();
  }
});

let shownExample = 0;
$("example").onclick = () => {
  const strokes = MODEL.examples[shownExample++ % MODEL.examples.length];
  const xs = strokes.flat().map(p => p[0]),
    ys = strokes.flat().map(p => p[1]);
  const wide = Math.max(...xs) || 1,
    high = Math.max(...ys) || 1;
  const scale = Math.min((0.85 * sheet.clientWidth) / wide, (0.7 * sheet.clientHeight) / high, 60);
  const left = (sheet.clientWidth - scale * wide) / 2,
    top = (sheet.clientHeight - scale * high) / 2;
  change({
    strokes: strokes.map(s => s.map(([x, y]) => [left + scale * x, top + scale * y])),
    picture: null,
  });
};

// ---- pictures ----------------------------------------------------------------------------------

async function take(file) {
  try {
    const image = await createImageBitmap(file),
      scale = Math.min(1, Math.sqrt(LARGEST / (image.width * image.height)));
    const width = Math.max(1, Math.round(scale * image.width)),
      height = Math.max(1, Math.round(scale * image.height));
    const context = new OffscreenCanvas(width, height).getContext("2d", {
      willReadFrequently: true,
    });
    context.drawImage(image, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    change({ strokes: [], picture: { image, pixels: { data, width, height } } });
  } catch {
    say("That is no picture that this browser can open: give a PNG or JPEG.", true);
  }
}

$("choose").onclick = () => $("file").click();
$("file").onchange = event => {
  if (event.target.files[0]) take(event.target.files[0]);
  event.target.value = "";
};
document.addEventListener("paste", event => {
  const item = [...event.clipboardData.items].find(each => each.type.startsWith("image/"));
  if (item) {
    take(item.getAsFile());
    event.preventDefault();
  }
});
sheet.addEventListener("dragover", event => {
  event.preventDefault();
  sheet.classList.add("dropping");
});
sheet.addEventListener("dragleave", () => sheet.classList.remove("dropping"));
sheet.addEventListener("drop", event => {
  event.preventDefault();
  sheet.classList.remove("dropping");
  if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
});

new ResizeObserver(() => {
  paint();
  paintSeen();
  light(null);
}).observe(sheet);
new ResizeObserver(fitFormula).observe($("found").parentElement);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  paint();
  paintSeen();
});
start().catch(error => say(`The reader could not be loaded: ${error.message}`, true));
