// A picture to ink, as mmlib/data/trace.py: dark from light, thinned to a skeleton, and a short
// stroke for each pair of its neighbouring pixels. A grey picture is {grey: Uint8Array (height *
// width), height, width}.
"use strict";

const INK = 25; // a pixel with a tenth of full ink counts where a picture is cropped
const COMPONENTS = 1.08; // typical component of a picture over typical symbol of its ink
const SMALLEST = 40; // pixels per symbol below which a picture is enlarged

/** Grey levels of RGBA bytes on white, weighted as Pillow weighs them. */
function greyOf({ data, height, width }) {
  const grey = new Uint8Array(height * width);
  for (let i = 0; i < grey.length; i++) {
    const alpha = data[4 * i + 3] / 255,
      [r, g, b] = [0, 1, 2].map(k => Math.round(data[4 * i + k] * alpha + 255 * (1 - alpha)));
    grey[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
  }
  return { grey, height, width };
}

function histogram(grey) {
  const counts = new Float64Array(256);
  for (const level of grey) counts[level]++;
  return counts;
}

/** The level below which this share of the pixels lies. */
function level(grey, share) {
  const counts = histogram(grey);
  let below = 0,
    at = 0;
  while (at < 255 && (below += counts[at]) < share * grey.length) at++;
  return at;
}

/** Grey levels of dark ink on light paper; inverted where most of the picture is dark. */
const darkOnLight = grey => (level(grey, 0.5) > 127 ? grey : grey.map(v => 255 - v));

/** Ink levels, 255 = ink, cropped to the ink, with the place of the crop; null for blank paper. */
function cropped({ levels, height, width }) {
  let top = height,
    bottom = -1,
    left = width,
    right = -1;
  levels.forEach((v, i) => {
    if (v <= INK) return;
    const r = Math.floor(i / width),
      c = i % width;
    top = Math.min(top, r);
    bottom = Math.max(bottom, r);
    left = Math.min(left, c);
    right = Math.max(right, c);
  });
  if (bottom < 0) return null;
  const h = bottom - top + 1,
    w = right - left + 1,
    part = new Uint8Array(h * w);
  for (let r = 0; r < h; r++)
    part.set(levels.subarray((r + top) * width + left, (r + top) * width + right + 1), r * w);
  return { levels: part, height: h, width: w, left, top };
}

/** Otsu's threshold: ink is what lies above. */
function otsu(values) {
  const counts = histogram(values),
    all = values.length;
  let total = 0,
    below = 0,
    sum = 0,
    best = -1,
    found = 127;
  counts.forEach((n, v) => {
    total += n * v;
  });
  for (let v = 0; v < 255; v++) {
    below += counts[v];
    sum += counts[v] * v;
    if (!below || below === all) continue;
    const between = below * (all - below) * (sum / below - (total - sum) / (all - below)) ** 2;
    if (between > best) {
      best = between;
      found = v;
    }
  }
  return found;
}

// Steps to the eight around a pixel, clockwise from north.
const RING = width => [-width, 1 - width, 1, width + 1, width, width - 1, -1, -width - 1];

// What Zhang and Suen's thinning (1984) does with a pixel, by the eight around it, a bit each:
// removed in its first pass (1), in its second (2), or in both (3). scikit-image departs from the
// paper at ends and corners; how was fitted to what it makes of small pictures.
const DEPARTS = {
  3: 1,
  5: 1,
  6: 1,
  7: 1,
  12: 2,
  13: 2,
  20: 3,
  24: 0,
  28: 2,
  48: 2,
  52: 2,
  54: 2,
  65: 3,
  67: 1,
  80: 3,
  88: 2,
  96: 2,
  97: 1,
  99: 1,
  112: 2,
  129: 1,
  133: 1,
  192: 0,
  193: 1,
  208: 1,
};
const THINNED = Uint8Array.from({ length: 256 }, (_, code) => {
  const p = RING(1).map((_, k) => (code >> k) & 1),
    [n, , e, , s, , w] = p;
  const count = p.reduce((a, b) => a + b),
    starts = p.filter((v, k) => !v && p[(k + 1) % 8]).length;
  if (code in DEPARTS) return DEPARTS[code];
  if (count < 2 || count > 6 || starts !== 1) return 0;
  return (!(n && e && s) && !(e && s && w) ? 1 : 0) | (!(n && e && w) && !(n && s && w) ? 2 : 0);
});

/** Bits with a border of one blank pixel, thinned to a skeleton in place. */
function thin(bits, width) {
  const ring = RING(width),
    code = i => ring.reduce((sum, step, k) => sum | (bits[i + step] << k), 0);
  let inked = [];
  bits.forEach((bit, i) => {
    if (bit) inked.push(i);
  });
  for (let changed = true; changed;) {
    changed = false;
    for (const pass of [1, 2]) {
      const gone = inked.filter(i => THINNED[code(i)] & pass);
      gone.forEach(i => {
        bits[i] = 0;
      });
      if (gone.length) {
        changed = true;
        inked = inked.filter(i => bits[i]);
      }
    }
  }
  return bits;
}

/** Boxes [left, top, right, bottom] of the parts of bits that hang together, with their pixels. */
function components(bits, width) {
  const seen = new Uint8Array(bits.length),
    boxes = [];
  for (let start = 0; start < bits.length; start++) {
    if (!bits[start] || seen[start]) continue;
    const box = [Infinity, Infinity, -Infinity, -Infinity],
      pixels = [start];
    seen[start] = 1;
    for (const i of pixels) {
      const x = i % width,
        y = (i - x) / width;
      box[0] = Math.min(box[0], x);
      box[1] = Math.min(box[1], y);
      box[2] = Math.max(box[2], x);
      box[3] = Math.max(box[3], y);
      for (const step of [-width - 1, -width, 1 - width, -1, 1, width - 1, width, width + 1]) {
        const j = i + step;
        if (bits[j] && !seen[j]) {
          seen[j] = 1;
          pixels.push(j);
        }
      }
    }
    boxes.push(Object.assign(box, { pixels, area: pixels.length }));
  }
  return boxes;
}

/** Levels above a threshold as bits, with a border of one blank pixel. */
function bitsOf(levels, height, width, threshold) {
  const bits = new Uint8Array((width + 2) * (height + 2));
  levels.forEach((v, i) => {
    if (v > threshold) bits[(Math.floor(i / width) + 1) * (width + 2) + (i % width) + 1] = 1;
  });
  return bits;
}

/** A picture resized as Pillow does, bicubic. */
function resized({ grey, height, width }, by) {
  const cubic = x =>
    x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((2.5 - 0.5 * x) * x - 4) * x + 2 : 0;
  const along = (values, lines, from, to, step, next) => {
    const out = new Uint8ClampedArray(lines * to); // rounds, too
    for (let k = 0; k < to; k++) {
      const centre = ((k + 0.5) * from) / to - 0.5,
        first = Math.max(0, Math.ceil(centre - 2)),
        last = Math.min(from - 1, Math.floor(centre + 2)),
        weights = [];
      for (let j = first; j <= last; j++) weights.push(cubic(Math.abs(j - centre)));
      const all = weights.reduce((a, b) => a + b);
      for (let line = 0; line < lines; line++) {
        const sum = weights.reduce((a, w, j) => a + w * values[line * next + (first + j) * step], 0);
        out[step === 1 ? line * to + k : k * lines + line] = sum / all;
      }
    }
    return out;
  };
  const tall = Math.round(height * by),
    wide = Math.round(width * by),
    across = along(grey, height, width, wide, 1, width);
  return { grey: along(across, wide, height, tall, wide, 1), height: tall, width: wide };
}

/** Typical symbol in pixels, by the boxes of the parts of ink; specks do not count. */
function symbolSize(boxes) {
  const least = 0.02 * quantile(boxes.map(b => b.area), 0.95),
    large = boxes.filter(b => b.area > least);
  return typicalSize(large.map(([left, top, right, low]) => [left, top, right + 1, low + 1]));
}

/** By how much symbols of few pixels are enlarged, by the boxes of their parts; else 1. */
function enlargement(boxes) {
  const by = Math.min(4, (1.4 * SMALLEST) / symbolSize(boxes));
  return by > 1.4 ? by : 1;
}

/** A drawing on even paper whose small symbols are enlarged, and freed of the blur of that. */
function plain(picture) {
  const { grey, height, width } = picture,
    dark = darkOnLight(grey),
    paper = level(dark, 0.5),
    contrast = v => Math.round((255 * Math.max(0, paper - v)) / Math.max(paper, 40));
  const levels = Uint8Array.from(dark, contrast),
    bits = bitsOf(levels, height, width, Math.min(otsu(levels), 200)),
    by = bits.includes(1) ? enlargement(components(bits, width + 2)) : 1;
  if (by === 1) return picture;
  const large = resized({ grey: dark, height, width }, by),
    drawn = Uint8Array.from(large.grey, contrast),
    threshold = Math.min(otsu(drawn), 200),
    inked = drawn.map(v => (v > threshold ? v : 0)),
    skeleton = thin(bitsOf(inked, large.height, large.width, 0), large.width + 2);
  // What is half as dark as the ink nearby is blur, which fills loops.
  const count = values => values.reduce((sum, v) => sum + (v > 0), 0),
    side = 2 * Math.ceil(count(inked) / Math.max(1, count(skeleton))) + 1;
  const darkest = [true, false].reduce(
    (values, across) => filter(values, large.height, large.width, side, true, across),
    inked,
  );
  const sharp = inked.map((v, i) => (v > 0.5 * darkest[i] ? 255 - v : 255));
  return { ...large, grey: sharp, by };
}

/** Ink {xy, stroke} of a way to see a picture, and its typical size; null where there is none. */
function trace(way) {
  const found = cropped(way),
    by = way.by ?? 1;
  if (!found) return null;
  const { levels, width, height } = found,
    wide = width + 2,
    bits = thin(bitsOf(levels, height, width, Math.min(otsu(levels), 200)), wide);
  const strokes = [],
    joined = new Uint8Array(bits.length),
    place = i => [i % wide, Math.floor(i / wide)];
  const join = (i, j) => {
    joined[i] = joined[j] = 1;
    strokes.push([place(i), place(j)]);
  };
  for (let i = 0; i < bits.length; i++) {
    if (!bits[i]) continue;
    if (bits[i + 1]) join(i, i + 1);
    if (bits[i + wide]) join(i, i + wide);
    for (const dx of [1, -1]) {
      // a diagonal only where no right angle joins the two already
      if (bits[i + wide + dx] && !bits[i + wide] && !bits[i + dx]) join(i, i + wide + dx);
    }
  }
  for (let i = 0; i < bits.length; i++)
    if (bits[i] && !joined[i]) strokes.push([place(i), place(i)]);
  if (!strokes.length) return null;
  // a centre is at +1/2
  const move = ([x, y]) => [(x - 0.5 + found.left) / by, (y - 0.5 + found.top) / by];
  return {
    ink: inkOf(strokes.map(stroke => stroke.map(move))),
    size: typicalSize(components(bits, wide)) / COMPONENTS / by,
    back: way.back,
  };
}

/** Whether a picture is a photograph: its paper is not of one light. */
function isPhoto(grey) {
  const paper = darkOnLight(grey);
  return level(paper, 0.95) - level(paper, 0.3) > 12;
}

/** Along rows or columns, the largest or the mean of `size` pixels around each. */
function filter(values, height, width, size, largest, across) {
  const out = new Float32Array(values.length),
    half = size >> 1;
  const [lines, length, step, next] = across
    ? [height, width, 1, width]
    : [width, height, width, 1];
  for (let line = 0; line < lines; line++) {
    const window = [];
    let sum = 0,
      count = 0;
    const at = k => values[line * next + k * step];
    for (let k = -half; k < length; k++) {
      const enters = k + half,
        leaves = k - half - 1;
      if (enters < length && enters >= 0) {
        if (largest)
          while (window.length && at(window[window.length - 1]) <= at(enters)) window.pop();
        if (largest) window.push(enters);
        sum += at(enters);
        count++;
      }
      if (leaves >= 0) {
        sum -= at(leaves);
        count--;
      }
      if (largest && window[0] <= leaves) window.shift();
      if (k >= 0) out[line * next + k * step] = largest ? at(window[0]) : sum / count;
    }
  }
  return out;
}

/** A photograph as black on white: even light, no specks. Ruled lines stay; Python removes them. */
function cleaned({ grey, height, width, by }) {
  const side = Math.max(height, width);
  const both = (values, size, largest) =>
    [true, false].reduce((v, across) => filter(v, height, width, size, largest, across), values);
  const smooth = both(Float32Array.from(grey), 3, false);
  let light = both(smooth, Math.floor(side / 25), true);
  for (let k = 0; k < 2; k++) light = both(light, Math.floor(side / 20), false);
  const even = Uint8Array.from(smooth, (v, i) => 255 * Math.min(1, v / Math.max(light[i], 1)));
  const threshold = Math.min(otsu(even), 216),
    wide = width + 2,
    bits = bitsOf(
      even.map(v => 255 - v),
      height,
      width,
      255 - threshold,
    );
  const least = Math.max(6, Math.round((side / 300) ** 2)),
    out = new Uint8Array(grey.length).fill(255),
    boxes = components(bits, wide),
    enlarge = boxes.length && !by ? enlargement(boxes) : 1;
  if (enlarge > 1)
    return cleaned({ ...resized({ grey, height, width }, enlarge), by: enlarge });
  for (const speck of boxes.filter(b => b.area < least)) for (const i of speck.pixels) bits[i] = 0;
  for (let i = 0; i < out.length; i++)
    if (bits[(Math.floor(i / width) + 1) * wide + (i % width) + 1]) out[i] = 0;
  return { grey: out, height, width, by };
}
