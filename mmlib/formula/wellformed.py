r"""Which token may come next, so that what a search writes is always an expression.

The canonical grammar (`mmlib.formula.latex`) as a machine that reads tokens one by one, from the
left or from the right, and knows after each what may follow::

    row    = item*
    item   = base [ _ { row } ] [ ^ { row } ]
    base   = symbol | \frac { row } { row } | \sqrt [ [ row ] ] { row } | { }

A row in braces or brackets holds at least one item. From the right a group's role is known only
when the token on its left is read; from the left it is known before. States are plain tuples, and
both functions are cached: a search meets a few hundred of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

SYMBOL, OPEN, CLOSE, LEFT, RIGHT, SUP, SUB, FRAC, SQRT, END = KINDS = tuple(range(10))
_KIND = {"{": OPEN, "}": CLOSE, "[": LEFT, "]": RIGHT, "^": SUP, "_": SUB, r"\frac": FRAC,
         r"\sqrt": SQRT}
_BASES = frozenset({SYMBOL, LEFT, RIGHT, FRAC, SQRT, OPEN})  # what an item begins with


def kind(token: str) -> int:
    """Of `KINDS`; every token that is no structure is a symbol."""
    return _KIND.get(token, SYMBOL)


class State(NamedTuple):
    """What has been read so far, as far as it decides what may come.

    stack: the rows that are open, outermost first, each as what it is the content of (`_GROUPS`).
    want: what the next token must serve: "item" (or an end), or a group's name.
    has: how far the present item is. From the left: "" (no item yet), "b" (base), "_", "^".
        From the right: "" (nothing), "i" (a whole item), "_" or "^" (scripts that need a base).
    """

    stack: tuple[tuple[str, str], ...] = ()
    want: str = "item"
    has: str = ""


START = State()

# --- from the left --------------------------------------------------------------------------------


@lru_cache(maxsize=100_000)
def allowed(state: State, backwards: bool = False) -> frozenset[int]:
    """The kinds of token that may follow."""
    return _allowed_backwards(state) if backwards else _allowed_forwards(state)


@lru_cache(maxsize=100_000)
def after(state: State, token: int, backwards: bool = False) -> State:
    """The state after a token of this kind. Raises ValueError if it is not allowed."""
    if token not in allowed(state, backwards):
        raise ValueError(f"kind {token} may not follow {state}")
    return _after_backwards(state, token) if backwards else _after_forwards(state, token)


def _allowed_forwards(state: State) -> frozenset[int]:
    stack, want, has = state
    if want == "empty":  # the base without a symbol, { }
        return frozenset({CLOSE})
    if want == "root":
        return frozenset({OPEN, LEFT})
    if want != "item":  # an argument
        return frozenset({OPEN})
    kinds = set(_BASES)
    if stack and stack[-1][0] == "index":
        kinds -= {LEFT, RIGHT}  # a bare ] would end the index
    if has:
        kinds |= {SUP} if has in "b_" else set()
        kinds |= {SUB} if has == "b" else set()
        kinds.add(END if not stack else RIGHT if stack[-1][0] == "index" else CLOSE)
    return frozenset(kinds)


def _after_forwards(state: State, token: int) -> State:
    stack, want, has = state
    if want == "empty":
        return State(stack, "item", "b")
    if want == "root":
        return State((*stack, ("body" if token == OPEN else "index", has)))
    if want != "item":
        return State((*stack, (want, has)))
    if token in (CLOSE, RIGHT) and stack and (token == CLOSE or stack[-1][0] == "index"):
        (group, _), stack = stack[-1], stack[:-1]
        following = {"above": "below", "index": "body"}.get(group, "item")
        return State(stack, following, {"sub": "_", "sup": "^"}.get(group, "b"))
    names = {SUP: "sup", SUB: "sub", FRAC: "above", SQRT: "root", OPEN: "empty"}
    return State(stack, names.get(token, "item"), "b") if token != END else state


# --- from the right -------------------------------------------------------------------------------


def _allowed_backwards(state: State) -> frozenset[int]:
    stack, want, has = state
    if want == "owner":  # a group has been read: what does it belong to?
        # Of scripts, ^ is written last, so it is read first; a fraction's other half or a root's
        # index may stand before the group.
        return frozenset({SQRT, CLOSE, RIGHT} | ({SUP} if has in ("", "i") else set())
                         | ({SUB} if has != "_" else set()))
    if want in ("frac", "sqrt"):
        return frozenset({FRAC if want == "frac" else SQRT})
    kinds = {SYMBOL, LEFT, RIGHT, CLOSE}
    opened = stack[-1][0] if stack else ""
    if opened == "index":
        kinds -= {LEFT, RIGHT}
    if has == "i":
        kinds.add(END if not stack else LEFT if opened == "index" else OPEN)
    if not has and opened == "group":
        kinds.add(OPEN)  # { }
    return frozenset(kinds)


def _after_backwards(state: State, token: int) -> State:
    stack, want, has = state
    if want == "owner":
        if token in (SUP, SUB):
            return State(stack, "item", "^" if token == SUP else "_")
        if token == SQRT:
            return State(stack, "item", "i")
        return State((*stack, ("above" if token == CLOSE else "index", has)))
    if want in ("frac", "sqrt"):
        return State(stack, "item", "i")
    if token == CLOSE:
        return State((*stack, ("group", has)))
    if token in (OPEN, LEFT) and stack and (token == OPEN or stack[-1][0] == "index"):
        (group, before), stack = stack[-1], stack[:-1]
        if group == "group":
            return State(stack, "owner", before) if has else State(stack, "item", "i")
        return State(stack, "frac" if group == "above" else "sqrt", before)
    return State(stack, "item", "i") if token != END else state


@lru_cache(maxsize=100_000)
def distance(state: State, backwards: bool = False) -> int:
    """The least number of tokens, the end not counted, after which the expression may end."""
    stack, want, has = state
    if backwards:
        # A symbol completes an item; a group is closed and then owned by a root, a fraction's
        # first half or an index by what opens it; { } needs neither.
        now = {"item": int(has != "i")}.get(want, 1)
        if stack and stack[-1][0] == "group" and want == "item" and not has:
            return 1 + 2 * (len(stack) - 1)
        return now + 2 * len(stack)
    argument = 3  # a symbol in braces
    now = {"item": int(not has), "empty": 1, "above": 2 * argument}.get(want, argument)
    return now + sum(1 + argument * (group in ("above", "index")) for group, _ in stack)


def complete(tokens: Sequence[str], backwards: bool = False) -> bool:
    """Whether the tokens, in the order in which they are read, are a whole expression."""
    state = START
    for token in map(kind, tokens):
        if token not in allowed(state, backwards):
            return False
        state = after(state, token, backwards)
    return END in allowed(state, backwards)
