// The reader in a worker. What it is asked, and what it answers, beside the kind and the id:
//   {kind: "load", glue, wasm, encoder, decoder, card}
//   {kind: "read", id, strokes | picture, beam} ->
//     {readings, place, seen} or {refusal, seen}
//   {kind: "attend", id, ids} -> {maps: [Float32Array (h * w)] of the tokens, place}
// An answer has an `error` where the job failed. `place` says where the drawing lies on the paper:
// {height, width, scale, left, top}, as `draw` of ink.js gives it, and `back` where the picture was
// turned, as in ways.js; `seen`, the ink that was found in a picture: {xy, stroke, size}.
"use strict";

let card, encoder, decoder, memory;

const tensor = (data, dims) => new ort.Tensor("float32", data, dims);

async function load({ glue, wasm, encoder: first, decoder: second, card: about }) {
  ort.env.wasm.numThreads = 1; // more need headers of a server
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.wasmPaths = {
    mjs: URL.createObjectURL(new Blob([glue], { type: "text/javascript" })),
  };
  const options = { executionProviders: ["wasm"] };
  encoder = await ort.InferenceSession.create(first, options);
  decoder = await ort.InferenceSession.create(second, options);
  card = about;
  await read({
    strokes: [
      [
        [0, 0],
        [9, 9],
      ],
      [
        [9, 0],
        [0, 9],
      ],
    ],
    beam: 2,
  }); // the first reading is slower than the rest
}

async function step({ tokens, place, bias, groups, present }) {
  const { layers, heads, d } = card.config.model.decoder,
    m = place.length;
  const nothing = () => tensor(new Float32Array(0), [layers, groups, heads, 0, d / heads]);
  const found = await decoder.run({
    tokens: new ort.Tensor("int64", BigInt64Array.from(tokens, BigInt), [groups, m]),
    place: tensor(place, [m]),
    bias: tensor(bias, [groups, m, bias.length / groups / m]),
    keys: memory.keys,
    values: memory.values,
    past_keys: present?.keys ?? nothing(),
    past_values: present?.values ?? nothing(),
  });
  return {
    logits: found.logits.data,
    keys: found.present_keys,
    values: found.present_values,
    attention: found.attention,
  };
}

async function read({ strokes, picture, beam }) {
  const written = picture ? null : inkOf(strokes),
    inks = written
      ? [{ ink: written, size: typicalSize(strokeBoxes(written)) }]
      : waysOf(greyOf(picture)).map(trace);
  const best = await bestWay(inks, (way, larger) => readOne(way, larger, beam), !written),
    seen = picture && best.ink && { ...best.ink, size: best.size };
  memory = best.memory;
  return { readings: best.readings, refusal: best.refusal, place: memory?.place, seen };
}

/** Read an ink that is drawn `larger` than the recogniser's own size. */
async function readOne({ ink, size, back }, larger, beam) {
  const { view } = card.config,
    { picture, ...place } = draw(ink, size, { ...view, symbol: larger * view.symbol });
  const { keys, values } = await encoder.run({
    picture: tensor(picture, [1, 1, place.height, place.width]),
  });
  memory = { keys, values, place: { ...place, back } };
  return { ink, size, memory, readings: await beamSearch(step, card.vocabulary, beam) };
}

/** Where the guided head looked, over the cells, for each token of a text and for its end. */
async function attend({ ids }) {
  const { height, width } = memory.place,
    cells = ((height / STRIDE) * width) / STRIDE;
  const { inputs } = whole(ids, 0),
    { attention } = await step(causal([inputs], inputs.length));
  const [, , all] = attention.dims; // the slots come after the cells
  const maps = inputs.map((_, i) => attention.data.slice(i * all, i * all + cells));
  return { maps, place: memory.place };
}

const JOBS = { load, read, attend };
let last = Promise.resolve(); // one job at a time, in order

self.onmessage = ({ data }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ kind: data.kind, id: data.id, ...(await JOBS[data.kind](data)) });
    } catch (error) {
      self.postMessage({ kind: data.kind, id: data.id, error: String(error?.message ?? error) });
    }
  });
};
