r"""Which token may come next, so that what a search writes is always an expression.

The canonical grammar (`mmlib.formula.latex`) as the tables of an LL(1) parser, one that reads from
the left and one that reads from the right::

    row    = item*
    item   = base [ _ { row } ] [ ^ { row } ]
    base   = symbol | \frac { row } { row } | \sqrt [ [ row ] ] { row } | \overline { row } | { }

A row in braces or brackets holds at least one item. A state is what must still come, the next
first: tokens' kinds, and parts of the grammar by name. All functions of states are cached: a search
meets a few hundred of them.
"""

from functools import lru_cache

SYMBOL, OPEN, CLOSE, LEFT, RIGHT, SUP, SUB, FRAC, SQRT, END, BAR = range(11)
_KIND = {"{": OPEN, "}": CLOSE, "[": LEFT, "]": RIGHT, "^": SUP, "_": SUB, r"\frac": FRAC,
         r"\sqrt": SQRT, r"\overline": BAR}

State = tuple[int | str, ...]
# Of each part: what follows its first token, by that token. With EMPTY, the part may be left out.
Table = dict[str, dict[int, State]]
START: State = ("row",)
EMPTY = -1


def kind(token: str) -> int:
    """The kind of a token; every one that is no structure is a symbol."""
    return _KIND.get(token, SYMBOL)


def _forwards() -> Table:
    """Parts from the left; a row's further parts are named for what was read last."""
    table: Table = {"root": {OPEN: ("row", CLOSE), LEFT: ("index", RIGHT, OPEN, "row", CLOSE)}}
    for row in ("row", "index"):
        base, sub, sup = f"{row} base", f"{row} _", f"{row} ^"
        items: dict[int, State] = {
            SYMBOL: (base,), LEFT: (base,), RIGHT: (base,), OPEN: (CLOSE, base),
            FRAC: (OPEN, "row", CLOSE, OPEN, "row", CLOSE, base), SQRT: ("root", base),
            BAR: (OPEN, "row", CLOSE, base),
        }  # fmt: skip
        if row == "index":  # a bare ] would end the index
            del items[LEFT], items[RIGHT]
        table[row] = items
        table[sup] = items | {EMPTY: ()}
        table[sub] = table[sup] | {SUP: (OPEN, "row", CLOSE, sup)}
        table[base] = table[sub] | {SUB: (OPEN, "row", CLOSE, sub)}
    return table


def _backwards() -> Table:
    """Parts from the right: what a group belongs to is known only once its left side is read."""
    table: Table = {}
    for row in ("row", "index"):
        more = f"{row} more"
        scripts: dict[int, State] = {SUP: (f"{row} ^",), SUB: (f"{row} _",)}
        # Of scripts, ^ is written last, so it is read first.
        for part, left in ((row, (SUP, SUB)), (f"{row} ^", (SUB,)), (f"{row} _", ())):
            table[part] = {SYMBOL: (more,), LEFT: (more,), RIGHT: (more,), CLOSE: (f"{part} }}",)}
            if row == "index":
                del table[part][LEFT], table[part][RIGHT]
            # A group with content is a script's, a root's, a bar's, or a fraction's second; one of
            # { } is a base. Before it, a fraction has its first half, and a root perhaps an index.
            owner = f"{part} owner"
            table[owner] = {SQRT: (more,), BAR: (more,), CLOSE: ("row", OPEN, FRAC, more),
                            RIGHT: ("index", LEFT, SQRT, more)} | {s: scripts[s] for s in left}
            table[f"{part} }}"] = {OPEN: (more,)} | {
                first: (*rest, OPEN, owner) for first, rest in table["row"].items()}
        table[more] = table[row] | {EMPTY: ()}
    return table


def _least(table: Table) -> dict[int | str, int]:
    """The least number of tokens of each part."""
    least: dict[int | str, int] = dict.fromkeys(table, 1_000)
    for _ in table:  # a part's length may depend on any other's
        for part, rules in table.items():
            least[part] = min(0 if first == EMPTY else 1 + sum(least.get(p, 1) for p in rest)
                              for first, rest in rules.items())
    return least


_TABLES = (_forwards(), _backwards())
_LEAST = tuple(map(_least, _TABLES))


def _rules(part: int | str, backwards: bool) -> dict[int, State]:
    """What follows each first token of a part; a kind of token is a part of its own."""
    return {part: ()} if isinstance(part, int) else _TABLES[backwards][part]


@lru_cache(maxsize=100_000)
def allowed(state: State, backwards: bool = False) -> frozenset[int]:
    """The kinds of token that may follow."""
    if not state:
        return frozenset({END})
    rules = _rules(state[0], backwards)
    kinds = frozenset(rules) - {EMPTY}
    return kinds | allowed(state[1:], backwards) if EMPTY in rules else kinds


@lru_cache(maxsize=100_000)
def after(state: State, token: int, backwards: bool = False) -> State:
    """The state after a token of this kind. Raises ValueError if it is not allowed."""
    if token not in allowed(state, backwards):
        raise ValueError(f"kind {token} may not follow {state}")
    if token == END:
        return state
    rules = _rules(state[0], backwards)
    return rules[token] + state[1:] if token in rules else after(state[1:], token, backwards)


@lru_cache(maxsize=100_000)
def distance(state: State, backwards: bool = False) -> int:
    """The least number of tokens, the end not counted, after which the expression may end."""
    return sum(_LEAST[backwards].get(part, 1) for part in state)
