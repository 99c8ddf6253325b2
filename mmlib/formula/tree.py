"""Symbol layout trees: which symbols there are, and how they stand to each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Node:
    """A symbol and what hangs on it; its right neighbour is the next node of the row (a list).

    ``children`` maps a relation (Sub, Sup, Above, Below, Inside) to a row of nodes. ``\\frac`` has
    Above and Below; ``\\sqrt`` has Inside and, for an index, Above; ``\\overline`` has Inside. What
    LaTeX writes with ``_`` and ``^`` is Sub and Sup, limits of sums included. ``ref`` names the
    symbol whose ink it is, say by the ``xml:id`` in an InkML file. An empty label carries scripts
    that belong to no symbol.
    """

    label: str
    ref: str | None = None
    children: dict[str, list["Node"]] = field(default_factory=dict)


def renumber(tree: Sequence[Node]) -> int:
    """Set each symbol's ``ref`` to its number, in the order in which tokens name the symbols.

    Returns how many symbols there are.
    """
    count, pending = 0, list(reversed(tree))
    while pending:
        node = pending.pop()
        if node.label:
            node.ref, count = str(count), count + 1
        for relation in ("Sup", "Sub", "Inside", "Below", "Above"):
            pending += reversed(node.children.get(relation, ()))
    return count
