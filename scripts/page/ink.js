// Ink as the recogniser sees it: `typical_size` of mmlib/formula, `several_rows` of mmlib/read, and
// the still view of mmlib/draw. Python computes in float32; Math.fround and Float32Array keep to
// that, so that both draw the same pixels.
//
// An ink is {xy: Float32Array (2 n), stroke: Int32Array (n)}, y down, in any unit; the points of a
// stroke are consecutive.
"use strict";

const STEP = 0.7; // pixels between two discs along a stroke
const STRIDE = 8; // sides of a picture are multiples of the encoder's stride
const GAP = 1.5; // typical symbols of blank paper between two lines
const MOST_AREA = 4000; // square typical symbols of one expression
const MOST_POINTS = 200000;
const f32 = Math.fround;

/** An ink of strokes [[[x, y], ...], ...]. */
function inkOf(strokes) {
  const xy = Float32Array.from(strokes.flat(2));
  return { xy, stroke: Int32Array.from(strokes.flatMap((s, i) => s.map(() => i))) };
}

/** Boxes [left, top, right, bottom] of the strokes. */
function strokeBoxes({ xy, stroke }) {
  const boxes = [];
  for (let i = 0; i < stroke.length; i++) {
    const x = xy[2 * i],
      y = xy[2 * i + 1];
    if (!i || stroke[i] !== stroke[i - 1]) boxes.push([x, y, x, y]);
    const box = boxes[boxes.length - 1];
    box[0] = Math.min(box[0], x);
    box[1] = Math.min(box[1], y);
    box[2] = Math.max(box[2], x);
    box[3] = Math.max(box[3], y);
  }
  return boxes;
}

/** Linear quantile of numbers, as NumPy's. */
function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b),
    at = q * (sorted.length - 1),
    low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

/** Size of the typical symbol, from boxes of strokes alone; always above 0. */
function typicalSize(boxes) {
  const height = boxes.map(b => b[3] - b[1]),
    longer = boxes.map((b, i) => Math.max(b[2] - b[0], height[i]));
  if (!longer.some(side => side > 0)) {
    // dots only: how far they spread
    const spread = i => Math.max(...boxes.map(b => b[i + 2])) - Math.min(...boxes.map(b => b[i]));
    return Math.max(spread(0), spread(1)) || 1;
  }
  const least = Math.max(
    0.05 *
      quantile(
        longer.filter(side => side > 0),
        0.75,
      ),
    1.1754943508222875e-38,
  );
  const kept = [...boxes.keys()].filter(i => longer[i] >= least);
  const sides = [0.4, 0.5, 0.6, 0.7].map(
    q =>
      0.7 *
        quantile(
          kept.map(i => longer[i]),
          q,
        ) +
      0.3 *
        quantile(
          kept.map(i => height[i]),
          q + 0.1,
        ),
  );
  return (1.1 * sides.reduce((a, b) => a + b)) / sides.length;
}

/** Why an ink is not one expression, in words; nothing where it may be. */
function refusal(ink, size) {
  const boxes = strokeBoxes(ink),
    n = ink.stroke.length;
  if (n > MOST_POINTS) return "That is too much ink for one formula: crop the picture to it.";
  const ends = boxes.reduce((a, b) => [
    Math.min(a[0], b[0]),
    Math.min(a[1], b[1]),
    Math.max(a[2], b[2]),
    Math.max(a[3], b[3]),
  ]);
  const wide = (ends[2] - ends[0]) / size,
    high = (ends[3] - ends[1]) / size;
  if ((wide + 1) * (high + 1) > MOST_AREA)
    return "That is too large for one formula: crop it, or remove specks.";
  const rows = severalRows(boxes, size);
  return rows
    ? `There are ${rows} rows with blank paper between them: give one formula at a time.`
    : "";
}

/** Rows of ink that GAP of blank paper parts, each of a formula's size; 0 where there is one. */
function severalRows(boxes, size) {
  const rows = [];
  let reach = -Infinity;
  for (const box of [...boxes].sort((a, b) => a[1] - b[1])) {
    if (!rows.length || (box[1] - reach) / size > GAP) rows.push([...box]);
    const row = rows[rows.length - 1];
    [0, 1].forEach(i => {
      row[i] = Math.min(row[i], box[i]);
      row[i + 2] = Math.max(row[i + 2], box[i + 2]);
    });
    reach = Math.max(reach, box[3]);
  }
  const formulas = rows.filter(r => (r[2] - r[0]) / size > 2 && (r[3] - r[1]) / size > 0.5).length;
  return formulas > 1 ? formulas : 0;
}

/**
 * The still view: {picture: Float32Array (height * width), height, width, scale, left, top}; a
 * place p of the ink lies at (p - (left, top)) * scale in the picture, in pixels.
 * view: {symbol, margin, pen: [low, high]}.
 */
function draw(ink, size, view) {
  const n = ink.stroke.length,
    points = new Float32Array(2 * n),
    low = [Infinity, Infinity],
    high = [-Infinity, -Infinity];
  const first = [0, 1].map(axis =>
    ink.xy.reduce((least, v, i) => (i % 2 === axis && v < least ? v : least), Infinity),
  );
  for (let i = 0; i < 2 * n; i++) {
    points[i] = f32(f32(f32(ink.xy[i] - first[i % 2]) / f32(size)) * f32(view.symbol));
    low[i % 2] = Math.min(low[i % 2], points[i]);
    high[i % 2] = Math.max(high[i % 2], points[i]);
  }
  for (let i = 0; i < 2 * n; i++) points[i] = f32(f32(points[i] - low[i % 2]) + view.margin);
  const side = axis =>
    Math.max(2, Math.ceil(f32(f32(high[axis] - low[axis]) + 2 * view.margin) / STRIDE)) * STRIDE;
  const width = side(0),
    height = side(1),
    scale = view.symbol / size;
  const picture = rasterise(points, ink.stroke, height, width, (view.pen[0] + view.pen[1]) / 2);
  return {
    picture,
    height,
    width,
    scale,
    left: first[0] - view.margin / scale,
    top: first[1] - view.margin / scale,
  };
}

/** Discs along the polylines; the coverage of a pixel is clip(radius + 1/2 - distance, 0, 1). */
function rasterise(points, stroke, height, width, pen) {
  const picture = new Float32Array(height * width),
    radius = f32(f32(pen) / 2),
    reach = Math.max(1, Math.ceil(radius));
  for (let i = 0; i < stroke.length; i++) {
    const x = points[2 * i],
      y = points[2 * i + 1],
      joined = stroke[i + 1] === stroke[i];
    const dx = joined ? f32(points[2 * i + 2] - x) : 0,
      dy = joined ? f32(points[2 * i + 3] - y) : 0;
    const count = Math.max(1, Math.ceil(f32(f32(Math.hypot(dx, dy)) / f32(STEP))));
    for (let k = 0; k < count; k++) {
      const part = f32(k / count);
      disc(picture, height, width, f32(x + f32(part * dx)), f32(y + f32(part * dy)), radius, reach);
    }
  }
  return picture;
}

function disc(picture, height, width, x, y, radius, reach) {
  const column = Math.floor(x),
    row = Math.floor(y);
  for (let r = Math.max(0, row - reach); r <= Math.min(height - 1, row + reach); r++) {
    for (let c = Math.max(0, column - reach); c <= Math.min(width - 1, column + reach); c++) {
      const dx = f32(c + 0.5 - x),
        dy = f32(r + 0.5 - y),
        at = r * width + c;
      const coverage = Math.min(1, radius + 0.5 - f32(Math.sqrt(f32(f32(dx * dx) + f32(dy * dy)))));
      if (coverage > picture[at]) picture[at] = coverage;
    }
  }
}
