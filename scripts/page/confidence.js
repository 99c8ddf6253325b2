// How likely a reading is right, and each of its tokens, as mmlib/read/confidence.py computes it.
"use strict";

const DOUBTFUL = 0.5; // below it, more likely wrong than right: as `Reading.doubtful`
const LEAST = 1e-4; // how far from 0 and 1 agreement can be told

/** The places [i, j] of a and b that match, as Python's difflib matches them. */
function matches(a, b, [from, to] = [0, a.length], [low, high] = [0, b.length]) {
  let best = { i: from, j: low, size: 0 },
    before = {};
  for (let i = from; i < to; i++) {
    const lengths = {};
    for (let j = low; j < high; j++) {
      if (a[i] !== b[j]) continue;
      const size = (lengths[j] = (before[j - 1] ?? 0) + 1);
      if (size > best.size) best = { i: i - size + 1, j: j - size + 1, size };
    }
    before = lengths;
  }
  const { i, j, size } = best;
  if (!size) return [];
  return [
    ...matches(a, b, [from, i], [low, j]),
    ...Array.from({ length: size }, (_, k) => [i + k, j + k]),
    ...matches(a, b, [i + size, to], [j + size, high]),
  ];
}

/** Of the first of readings [{ids, score}]: {whole, tokens}; nothing without a calibration. */
function confidence(readings, calibration) {
  if (!calibration?.whole) return null;
  const [{ ids, score }] = readings,
    totals = readings.map(r => r.score * (r.ids.length + 1)),
    most = Math.max(...totals);
  const likelihood = totals.map(total => Math.exp(total - most)),
    sum = likelihood.reduce((x, y) => x + y);
  const agree = new Float64Array(ids.length),
    bad = Math.log(Math.max(-score, 1e-3));
  readings.forEach((r, k) => {
    for (const [i] of matches(ids, r.ids)) agree[i] += likelihood[k] / sum;
  });
  const sure = ([constant, slope, share], x, agreed) => {
    const kept = Math.min(1 - LEAST, Math.max(LEAST, agreed));
    return 1 / (1 + Math.exp(-(constant + slope * x + share * Math.log(kept / (1 - kept)))));
  };
  return {
    whole: sure(calibration.whole, bad + Math.log(ids.length + 1), likelihood[0] / sum),
    tokens: Array.from(agree, agreed => sure(calibration.token, bad, agreed)),
  };
}
