// Which token may come next, so that a search writes expressions alone. The grammar is described in
// mmlib/formula/wellformed.py. A state is {stack: [[group, has], ...], want, has}.
"use strict";

const KINDS = {
  "{": "open",
  "}": "close",
  "[": "left",
  "]": "right",
  "^": "sup",
  _: "sub",
  "\\frac": "frac",
  "\\sqrt": "sqrt",
  "\\overline": "bar",
};
const BASES = ["symbol", "left", "right", "frac", "sqrt", "bar", "open"];
const START = { stack: [], want: "item", has: "" };

const kindOf = token => (Object.hasOwn(KINDS, token) ? KINDS[token] : "symbol");
const state = (stack, want = "item", has = "") => ({ stack, want, has });
const opened = stack => (stack.length ? stack[stack.length - 1][0] : "");

/** The kinds that may follow a state: a Set of "symbol", "open", ..., "end". */
function allowed({ stack, want, has }, backwards) {
  const group = opened(stack);
  const bare = group === "index" ? kind => kind !== "left" && kind !== "right" : () => true;
  if (!backwards) {
    if (want === "empty") return new Set(["close"]);
    if (want === "root") return new Set(["open", "left"]);
    if (want !== "item") return new Set(["open"]);
    const kinds = BASES.filter(bare);
    if (has === "b" || has === "_") kinds.push("sup");
    if (has === "b") kinds.push("sub");
    if (has) kinds.push(!stack.length ? "end" : group === "index" ? "right" : "close");
    return new Set(kinds);
  }
  if (want === "owner") {
    const kinds = ["sqrt", "bar", "close", "right"];
    if (has === "" || has === "i") kinds.push("sup");
    if (has !== "_") kinds.push("sub");
    return new Set(kinds);
  }
  if (want !== "item") return new Set([want]);
  const kinds = ["symbol", "left", "right", "close"].filter(bare);
  if (has === "i") kinds.push(!stack.length ? "end" : group === "index" ? "left" : "open");
  if (!has && group === "group") kinds.push("open");
  return new Set(kinds);
}

/** The state after a token of an allowed kind. */
function after(before, kind, backwards) {
  return kind === "end"
    ? before
    : backwards
      ? afterBackwards(before, kind)
      : afterForwards(before, kind);
}

function afterForwards({ stack, want, has }, kind) {
  if (want === "empty") return state(stack, "item", "b");
  if (want === "root") return state([...stack, [kind === "open" ? "body" : "index", has]]);
  if (want !== "item") return state([...stack, [want, has]]);
  if (stack.length && (kind === "close" || (kind === "right" && opened(stack) === "index"))) {
    const group = opened(stack);
    const following = { above: "below", index: "body" }[group] ?? "item";
    return state(stack.slice(0, -1), following, { sub: "_", sup: "^" }[group] ?? "b");
  }
  const names = { sup: "sup", sub: "sub", frac: "above", sqrt: "root", bar: "bar", open: "empty" };
  return state(stack, names[kind] ?? "item", "b");
}

function afterBackwards({ stack, want, has }, kind) {
  if (want === "owner") {
    if (kind === "sup" || kind === "sub") return state(stack, "item", kind === "sup" ? "^" : "_");
    if (kind === "sqrt" || kind === "bar") return state(stack, "item", "i");
    return state([...stack, [kind === "close" ? "above" : "index", has]]);
  }
  if (want !== "item") return state(stack, "item", "i");
  if (kind === "close") return state([...stack, ["group", has]]);
  if (stack.length && (kind === "open" || (kind === "left" && opened(stack) === "index"))) {
    const [group, before] = stack[stack.length - 1];
    const rest = stack.slice(0, -1);
    if (group === "group") return has ? state(rest, "owner", before) : state(rest, "item", "i");
    return state(rest, group === "above" ? "frac" : "sqrt", before);
  }
  return state(stack, "item", "i");
}

/** The least number of tokens, the end not counted, after which the expression may end. */
function distance({ stack, want, has }, backwards) {
  if (backwards) {
    if (opened(stack) === "group" && want === "item" && !has) return 1 + 2 * (stack.length - 1);
    return (want === "item" ? Number(has !== "i") : 1) + 2 * stack.length;
  }
  const argument = 3; // a symbol in braces
  const now = { item: Number(!has), empty: 1, above: 2 * argument }[want] ?? argument;
  const closing = group => 1 + argument * (group === "above" || group === "index");
  return stack.reduce((sum, [group]) => sum + closing(group), now);
}

/** The kinds that may follow if `room` more tokens may be written before the end. */
function followers(before, backwards, room) {
  const kinds = allowed(before, backwards);
  if (distance(before, backwards) + 8 < room) return kinds; // no kind leads away by more
  const near = kind => kind === "end" || distance(after(before, kind, backwards), backwards) < room;
  return new Set([...kinds].filter(near));
}
