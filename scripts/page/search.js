// Beam search in both directions with joint scoring, as mmlib/models/search.py, for one picture.
//
// run({tokens, place, bias, groups, present}) is a step of the exported decoder, described in
// mmlib/read/export.py; it resolves to {logits} with what the next step takes as `present`.
"use strict";

const [PAD, SOS, EOS, UNK] = [0, 1, 2, 3];
const MARGIN = 2; // nats: how far below the best finished hypothesis another is followed
const LOW = -1e9; // the bias where a token does not attend

/** Log-probabilities of row `row` of logits (rows, v). */
function logProbabilities(logits, row, v) {
  const part = logits.subarray(row * v, (row + 1) * v);
  let most = -Infinity,
    sum = 0;
  for (const value of part) most = Math.max(most, value);
  for (const value of part) sum += Math.exp(value - most);
  const shift = most + Math.log(sum);
  return Float64Array.from(part, value => value - shift);
}

/**
 * Readings [{ids, score}], best first, of a vocabulary's tokens; score: mean log-probability per
 * token, over both directions.
 */
async function beamSearch(run, vocabulary, beam = 5, longest = 120) {
  const v = vocabulary.length,
    kinds = vocabulary.map(kindOf);
  // A hypothesis knows its ids, their sum, its place in the grammar, and its own past: a slot of
  // each step's group.
  let beams = [SOS, EOS].map(start =>
    Array.from({ length: beam }, (_, i) => ({
      ids: [start],
      sum: i ? -Infinity : 0,
      done: false,
      past: [],
      state: START,
    })),
  );
  let present = null;
  for (let t = 0; t <= longest; t++) {
    const all = beams.flat(),
      bias = new Float32Array(all.length * (t + 1) * beam).fill(LOW);
    all.forEach((h, row) => {
      [...h.past, row % beam].forEach((slot, when) => {
        bias[(row * (t + 1) + when) * beam + slot] = 0;
      });
    });
    const tokens = all.map(h => h.ids[t]),
      place = new Float32Array(beam).fill(t);
    present = await run({ tokens, place, bias, groups: 2, present });
    const known = all.map((h, row) => logProbabilities(present.logits, row, v));
    beams = beams.map((group, d) =>
      extend(group, known.slice(d * beam, (d + 1) * beam), kinds, d === 1, longest - t),
    );
    if (beams.every(over)) break;
  }
  return ranked(await scored(run, v, texts(beams)));
}

/** Whether a direction is over: each hypothesis has ended, or one that has is far ahead. */
function over(group) {
  const best = Math.max(...group.map(h => (h.done ? h.sum : -Infinity)));
  return group.every(h => h.done || h.sum < best - MARGIN);
}

/** The best continuations of a group, as many as it holds, if `room` more tokens may be written. */
function extend(group, known, kinds, backwards, room) {
  const end = backwards ? SOS : EOS,
    found = [];
  group.forEach((h, slot) => {
    const add = (token, kind, sum) => found.push({ h, slot, token, kind, sum });
    if (h.done) {
      add(PAD, "end", h.sum);
    } else if (h.sum > -Infinity) {
      const next = followers(h.state, backwards, room);
      kinds.forEach((kind, id) => {
        if (id > UNK && next.has(kind)) add(id, kind, h.sum + known[slot][id]);
      });
      if (next.has("end")) add(end, "end", h.sum + known[slot][end]);
    }
  });
  found.sort((a, b) => b.sum - a.sum);
  // Without a chance, but in its place: every step has as many rows.
  const lost = { h: group[0], slot: 0, token: PAD, kind: "end", sum: -Infinity };
  return group.map((_, i) => {
    const { h, slot, token, kind, sum } = found[i] ?? lost;
    const done = sum > -Infinity && (h.done || token === end);
    const state = after(h.state, kind, backwards);
    return { ids: [...h.ids, token], sum, done, past: [...h.past, slot], state };
  });
}

/** Finished texts, each with the sums of log-probabilities that its searches know, else NaN. */
function texts(beams) {
  const found = new Map();
  beams.forEach((group, d) =>
    group
      .filter(h => h.done)
      .forEach(h => {
        const ids = h.ids.slice(1).filter(id => id > UNK);
        if (d) ids.reverse();
        const key = ids.join(" ");
        if (!found.has(key)) found.set(key, { ids, sums: [NaN, NaN] });
        found.get(key).sums[d] = h.sum;
      }),
  );
  return [...found.values()];
}

/** Compute the sums that the searches do not know, all in one pass. */
async function scored(run, v, found) {
  const asked = found.flatMap(text =>
    [0, 1].filter(d => Number.isNaN(text.sums[d])).map(d => ({ text, d })),
  );
  if (!asked.length) return found;
  const rows = asked.map(({ text, d }) => whole(text.ids, d)),
    m = Math.max(...rows.map(row => row.inputs.length));
  const { logits } = await run(
    causal(
      rows.map(row => row.inputs),
      m,
    ),
  );
  asked.forEach(({ text, d }, i) => {
    text.sums[d] = rows[i].targets.reduce(
      (sum, id, k) => sum + logProbabilities(logits, i * m + k, v)[id],
      0,
    );
  });
  return found;
}

/** What a direction reads and writes of a whole text. */
function whole(ids, d) {
  const written = d ? [...ids].reverse() : ids;
  return { inputs: [d ? EOS : SOS, ...written], targets: [...written, d ? SOS : EOS] };
}

/** A step's inputs for rows of whole prefixes, padded to m tokens. */
function causal(rows, m) {
  const tokens = rows.flatMap(row => [...row, ...Array(m - row.length).fill(PAD)]);
  const bias = Float32Array.from({ length: rows.length * m * m }, (_, i) =>
    i % m > Math.floor(i / m) % m ? LOW : 0,
  );
  return {
    tokens,
    place: Float32Array.from({ length: m }, (_, i) => i),
    bias,
    groups: rows.length,
    present: null,
  };
}

function ranked(found) {
  return found
    .map(({ ids, sums }) => ({ ids, score: (sums[0] + sums[1]) / 2 / (ids.length + 1) }))
    .sort((a, b) => b.score - a.score);
}
