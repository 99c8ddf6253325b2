"""The style of every figure: settings, a look for each arm, formulas.

`style()` is a context; `save` writes PNG and SVG that are the same bytes for the same data.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from matplotlib.rcsetup import cycler

from mmlib.store.files import figures_root, make_folder, write_atomic

# Okabe and Ito's palette: readers with any colour vision can tell these apart.
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)
GREY = "#7F7F7F"
COLOURS = (RED, BLUE, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
_MARKERS = "osD^vPX*<>hp"


class Look(NamedTuple):
    """How an arm is drawn, in every figure."""

    color: str
    marker: str
    linestyle: str = "-"


ARMS: Mapping[str, Look] = {
    "mask-match": Look(RED, "o"),
    "contrastive": Look(ORANGE, "D"),
    "simclr": Look(SKY, "^"),
    "dense": Look(GREEN, "v"),
    "byol": Look(PURPLE, "P"),
    "mae": Look(GREY, "X"),
    "supervised": Look(BLUE, "s"),
    "supervised-total": Look(BLUE, "D", "--"),
    "match alone": Look(BLACK, "D"),
    "recogniser": Look(BLACK, "o"),
}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each arm: the fixed one of `ARMS`, else the next free one by order of name."""
    names = list(dict.fromkeys(names))
    taken = {ARMS[name][:2] for name in names if name in ARMS}
    free = (Look(color, _MARKERS[(i + lap) % len(_MARKERS)], ("-", "--", ":", "-.")[lap % 4])
            for lap in range(len(_MARKERS)) for i, color in enumerate(COLOURS)
            if (color, _MARKERS[(i + lap) % len(_MARKERS)]) not in taken)
    chosen = {name: ARMS.get(name) or next(free) for name in sorted(names)}
    return {name: chosen[name] for name in names}


@contextmanager
def style() -> Iterator[None]:
    """The project's rc settings for the figures made inside."""
    settings: dict[Any, Any] = {  # matplotlib's types know only the names of its own version
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper"),
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        # This font comes with matplotlib, so figures are the same on every machine.
        "font.sans-serif": ["DejaVu Sans"],
        "legend.frameon": False,
        "savefig.dpi": 200,
        "svg.hashsalt": "mmlib",
    }
    with mpl.rc_context(settings):
        yield


def save(fig: Figure, name: str) -> None:
    """Write ``<name>.png`` (200 dpi) and ``<name>.svg`` into `figures_root()`, without dates."""
    folder = figures_root()
    make_folder(folder)
    with mpl.rc_context({"svg.hashsalt": "mmlib"}):
        fig.savefig(folder / f"{name}.png", dpi=200, metadata={"Software": None})
        drawn = io.StringIO()
        fig.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    # Matplotlib names a clip path by its unrounded place, which differs in its last bits.
    for number, clip in enumerate(re.findall(r'<clipPath id="(\w+)"', text)):
        text = text.replace(clip, f"clip{number}")
    write_atomic(folder / f"{name}.svg", text)


# Names of TeX that matplotlib's mathtext lacks.
_MATHTEXT = {r"\lt": "<", r"\gt": ">", r"\ldots": r"\dots"}


def mathtext(tokens: Sequence[str] | None) -> str:
    """Canonical tokens as matplotlib's mathtext, or in plain letters where it cannot set them."""
    names = (_MATHTEXT.get(t, t) for t in tokens or ())
    # A space before ^ or _ would part a script from its base; one after a command must stay.
    text = "$" + "".join(name + " " * name[1:].isalpha() for name in names) + "$"
    try:
        MathTextParser("path").parse(text)
    except (ValueError, RuntimeError):
        return " ".join(tokens or ()).replace("$", "").replace("\\", "")
    return text
