// The ways to see a picture, as mmlib/data/photo.py finds them, and the one that reads best, as
// `best_way` of mmlib/read/reader.py takes it. A way is {levels: Uint8Array (height * width),
// height, width, by, back}: 255 = ink, of the picture enlarged `by`; where it is turned, `back`
// brings what lies on it to its place on the picture, as a canvas transforms.
"use strict";

const STEEPEST = 36; // degrees by which ink may rise or fall
const SLANTED = 4; // by which it may and still be read as it is
const PROFILE = 0.15; // of a typical symbol: bins of the profiles by which slanted ink is found
const SURE = 0.6; // nats that profiles lose where ink is turned unasked

/** Ways to see a picture, the likeliest first: as it is, turned, without strays at the edges. */
function waysOf(picture) {
  const seen = (isPhoto(picture.grey) ? cleaned : plain)(picture),
    { height, width, by } = seen,
    levels = darkOnLight(seen.grey).map(v => 255 - v),
    threshold = by ? 0 : Math.min(otsu(levels), 200),
    boxes = components(bitsOf(levels, height, width, threshold), width + 2),
    ways = [{ levels, height, width, by }];
  if (!boxes.length) return ways;
  const { angles, agreed } = slants(
    boxes.flatMap(box => box.pixels),
    width + 2,
    symbolSize(boxes),
  );
  ways.push(...angles.map(degrees => turned(ways[0], degrees)));
  if (agreed) ways.splice(0, 2, ways[1], ways[0]);
  for (const strays of atTheEdges(boxes, height))
    ways.push({ levels: without(strays, levels, width), height, width, by });
  return ways;
}

/** Degrees by which ink may fall to the right, likeliest first; whether that is sure, and steep. */
function slants(pixels, wide, size) {
  const every = pixels.sort((a, b) => a - b),
    some = 1 + Math.floor(every.length / 5000),
    points = every
      .filter((_, k) => k % some === 0)
      .map(i => [i % wide, Math.floor(i / wide)].map(v => v / (PROFILE * size)));
  const entropy = values => {
    const least = Math.min(...values),
      bins = {};
    for (const v of values) bins[Math.floor(v - least)] = (bins[Math.floor(v - least)] ?? 0) + 1;
    const shares = Object.values(bins).map(count => count / values.length);
    return -shares.reduce((sum, share) => sum + share * Math.log(share), 0);
  };
  const angles = Array.from({ length: STEEPEST + 1 }, (_, k) => 2 * k - STEEPEST);
  const mixed = angles.map(degrees => {
    const [c, s] = direction(degrees),
      down = entropy(points.map(([x, y]) => c * y - s * x));
    return down + entropy(points.map(([x, y]) => s * y + c * x));
  });
  const lowest = [...angles.keys()]
    .filter(k => mixed[k] < mixed[k - 1] && mixed[k] < mixed[k + 1])
    .sort((a, b) => mixed[a] - mixed[b])
    .slice(0, 2);
  const found = lowest.map(k => angles[k]).filter(degrees => Math.abs(degrees) > SLANTED),
    least = Math.min(...mixed);
  return {
    angles: found,
    agreed:
      Math.abs(found[0]) > 2 * SLANTED &&
      mixed[STEEPEST / 2] - least > SURE &&
      mixed[lowest[0]] === least,
  };
}

const direction = degrees => [Math.cos, Math.sin].map(f => f((degrees * Math.PI) / 180));

/** A way turned counter-clockwise, as scikit-image turns it: all in sight, and bilinear. */
function turned({ levels, height, width, by }, degrees) {
  const [c, s] = direction(degrees),
    right = (width - 1) * c + (height - 1) * Math.abs(s),
    low = (width - 1) * Math.abs(s) + (height - 1) * c,
    wide = Math.round(right) + 1,
    tall = Math.round(low) + 1;
  const x = (u, v) => c * (u - right / 2) - s * (v - low / 2) + (width - 1) / 2,
    y = (u, v) => s * (u - right / 2) + c * (v - low / 2) + (height - 1) / 2,
    at = (x, y) => (x >= 0 && x < width && y >= 0 && y < height ? levels[y * width + x] : 0);
  const found = new Uint8ClampedArray(tall * wide); // rounds, too
  for (let i = 0; i < found.length; i++) {
    const u = i % wide,
      v = (i - u) / wide,
      left = Math.floor(x(u, v)),
      top = Math.floor(y(u, v)),
      across = x(u, v) - left,
      down = y(u, v) - top,
      above = (1 - across) * at(left, top) + across * at(left + 1, top),
      below = (1 - across) * at(left, top + 1) + across * at(left + 1, top + 1);
    found[i] = (1 - down) * above + down * below;
  }
  const corner = [x, y].map(f => (f(-0.5, -0.5) + 0.5) / (by ?? 1)); // a pixel's centre is at +1/2
  return { levels: found, height: tall, width: wide, by, back: [c, s, -s, c, ...corner] };
}

/** Small parts of the ink that the picture's upper edge cuts, and those of its lower. */
function atTheEdges(boxes, height) {
  const most = 0.7 * symbolSize(boxes),
    small = boxes.filter(b => b[3] + 1 - b[1] < most),
    cut = [small.filter(b => b[1] === 1), small.filter(b => b[3] === height)]; // 1 is the border's
  return cut.filter(parts => parts.length && parts.length < boxes.length);
}

/** Levels without these parts of the ink. */
function without(parts, levels, width) {
  const left = levels.slice(),
    around = [-2, -1, 0, 1, 2];
  for (const i of parts.flatMap(part => part.pixels)) {
    const x = (i % (width + 2)) - 1,
      y = Math.floor(i / (width + 2)) - 1;
    for (const dy of around)
      for (const dx of around)
        if (x + dx >= 0 && x + dx < width) left[(y + dy) * width + x + dx] = 0;
  }
  return left;
}

/**
 * Of inks {ink, size}, ways to see one picture, what reads best: {ink, size, readings}, or where
 * none is a formula, why the first is not: {refusal}. read(ink, larger) resolves to {readings}.
 * Where the first ink reads badly, another or a larger drawing may read well.
 */
async function bestWay(inks, read, ofPicture = true) {
  const DOUBTFUL = -0.05, // score below which another way is tried
    BETTER = 0.02, // by which its score must be higher
    LARGER = 1.2; // size at which a picture is then read, too
  const refusals = inks.map(each =>
      each ? refusal(each.ink, each.size) : "There is no ink in the picture.",
    ),
    ways = inks.filter((_, i) => !refusals[i]);
  if (!ways.length) return { ...inks[0], refusal: refusals[0] };
  const worth = way => way.readings[0]?.score ?? -9;
  let best = await read(ways[0], 1);
  if (!ofPicture || worth(best) >= DOUBTFUL) return best;
  const others = ways.slice(1).map(way => [way, 1]);
  for (const [way, larger] of [...others, ...ways.map(way => [way, LARGER])]) {
    const other = await read(way, larger);
    if (worth(other) > worth(best) + BETTER) best = other;
  }
  return best;
}
