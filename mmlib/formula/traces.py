"""The traces of InkML: which channels a sample has, and how its values are written.

W3C, "Ink Markup Language (InkML)", Recommendation of 2011, sections 3.1 (formats and channels),
3.2.1 (traces) and 4 (contexts).
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from mmlib.formula.ink import InkError
from mmlib.formula.mathml import XML_ID

# A stroke has hundreds of points; a coordinate beyond this is a broken file, and its sums overflow
# float32.
LARGEST_COORDINATE = 1e7
# One value: how it counts ("!" as it is, "'" as first and '"' as second difference), then a number
# or one of T, F, * (as before) and ? (not known). No space is needed before a sign or a prefix.
_VALUE = re.compile(
    r"""([!'"]?)\s*(?:([-+]?)\s*\#([0-9A-Fa-f]{1,16})(?![0-9A-Fa-f])|
    ([-+]?)\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?![0-9.])|[nN]a[nN]|[iI]nf)|
    ([TF*?]))\s*""", re.VERBOSE)  # fmt: skip
_PLAIN = re.compile(r"[-+.0-9eE,\s]*", re.ASCII)
_PER_METRE = {"1/m": 1.0, "1/cm": 100.0, "1/mm": 1000.0, "1/in": 39.37, "1/pt": 2834.6}

Element = Any  # of lxml, which may be missing where ink is only trained on
Value = tuple[str, float | str]  # prefix, and the number or one of T, F, * and ?


@dataclass(frozen=True)
class Format:
    """The channels of a sample in their order.

    Those from `regular` on may be missing, at the end. x grows to the right and y downwards once
    multiplied by `scale`. Where no format is declared, a sample may have more than X and Y.
    """

    channels: tuple[str, ...] = ("X", "Y")
    regular: int = 2
    scale: tuple[float, float] = (1.0, 1.0)
    declared: bool = False

    def misfit(self, counts: Sequence[int]) -> int | None:
        """The first sample of a trace with a number of values that this format does not allow.

        CROHME declares X Y F for traces of X and Y: channels behind those two may be missing all
        through a trace.
        """
        least, most = self.regular, len(self.channels) if self.declared else np.inf
        if len(set(counts)) == 1:
            least = 1 + max(map(self.channels.index, "XY"))
        elif counts and not self.declared:
            least = most = counts[0]
        return next((i for i, count in enumerate(counts) if not least <= count <= most), None)


class Formats:
    """The formats of a file, by what its traces refer to."""

    def __init__(self, root: Element) -> None:
        self.named: dict[str, Element] = {}
        for element in root.iter("{*}context", "{*}inkSource", "{*}traceFormat"):
            if key := element.get(XML_ID) or element.get("id"):
                self.named.setdefault(key, element)
        found = list(root.iter("{*}traceFormat"))
        own = root.find("{*}traceFormat")
        # Many files declare one format and never refer to it.
        sole = own if own is not None else found[0] if len(found) == 1 else None
        self.default = Format() if sole is None else _format(sole)
        # A context outside the definitions holds for the traces that follow it.
        self.current: dict[Element, Element] = {}
        context = None
        for child in root.iterchildren("{*}context", "{*}trace", "{*}traceGroup"):
            if child.tag.rpartition("}")[2] == "context":
                context = child
            elif context is not None:
                self.current |= dict.fromkeys(child.iter("{*}trace"), context)

    def of(self, trace: Element, where: str) -> Format:
        """The format of a trace. Raises InkError where it cannot be known."""
        holder = trace
        while holder is not None and not holder.get("contextRef"):
            holder = holder.getparent()
        if holder is None:
            context = self.current.get(trace)
        else:
            ref = holder.get("contextRef")
            context = self.named.get(ref.rpartition("#")[2])
            if context is None and ref != "#DefaultContext":
                raise InkError(f"{where}: contextRef {ref!r} names no context; "
                               "add it to the file's <definitions>")
        element = self._found(context)
        chosen = self.default if element is None else _format(element)
        if not {"X", "Y"} <= set(chosen.channels):
            raise InkError(f"{where}: its format has the channels "
                           f"{' '.join(chosen.channels) or 'none'}; X and Y are needed")
        return chosen

    def _found(self, element: Element | None) -> Element | None:
        """The traceFormat that a context or a source of ink holds or refers to."""
        for _ in range(16):  # contexts inherit; a circle ends here
            if element is None or element.tag.rpartition("}")[2] == "traceFormat":
                return element
            refs = (element.get(key) for key in ("traceFormatRef", "inkSourceRef", "contextRef"))
            nearest = [element.find("{*}traceFormat"), element.find("{*}inkSource/{*}traceFormat"),
                       *(self.named.get(ref.rpartition("#")[2]) for ref in refs if ref)]
            element = next((other for other in nearest if other is not None), None)
        return None


def _format(element: Element) -> Format:
    """The `Format` of a traceFormat element."""
    rare = element.findall("{*}intermittentChannels/{*}channel")
    every = [*element.iterfind("{*}channel"),
             *element.iterfind("{*}regularChannels/{*}channel"), *rare]
    names = tuple((c.get("name") or "").upper() for c in every)
    turned = {name for name, c in zip(names, every) if c.get("orientation") == "-ve"}
    x, y = (-1.0 if axis in turned else 1.0 for axis in "XY")
    fine = [_resolution(element, axis) for axis in "XY"]
    ratio = fine[0] / fine[1] if min(fine) > 0 else 1.0
    return Format(names, len(every) - len(rare), (x, y * ratio), True)


def _resolution(form: Element, axis: str) -> float:
    """Steps per metre of a channel; 0 where the source of ink does not say."""
    for said in form.iterfind("../{*}channelProperties/{*}channelProperty"):
        if said.get("channel") == axis and said.get("name") == "resolution":
            try:
                value = float(said.get("value") or 0) * _PER_METRE.get(said.get("units"), 0)
            except ValueError:
                return 0.0
            return value if 1e-3 < value < 1e9 else 0.0
    return 0.0


def read_trace(text: str, form: Format, where: str) -> list[np.ndarray]:
    """The strokes (m, 2) of one trace: none without points, several where the pen was lifted.

    where: what errors call the trace. Raises InkError for a sample that does not fit the format.
    """
    samples, last = text.split(","), text.strip()
    if "," not in text and "\n" in last:
        lines = [line for line in last.splitlines() if line.strip()]
        if form.misfit([len(_VALUE.findall(line)) for line in lines]) is None:
            samples = lines  # points divided by new lines
    if not samples[-1].strip():  # a comma after the last point, or no text at all
        samples.pop()
    if "S" not in form.channels and _PLAIN.fullmatch(text):  # most traces, and then quick
        with contextlib.suppress(ValueError, IndexError):  # of 66-19, say, or a value too few
            table = np.array([sample.split() for sample in samples], float)
            points = table[:, [form.channels.index(axis) for axis in "XY"]]
            fits = form.misfit([table.shape[1]] * len(table)) is None
            if fits and (np.abs(points) <= LARGEST_COORDINATE).all():
                return [points * form.scale]
    rows = [_values(sample, where, i) for i, sample in enumerate(samples)]
    i = form.misfit([len(row) for row in rows])
    if i is not None:
        raise InkError(f"{where}, point {i}: {samples[i].strip()[:40]!r} has {len(rows[i])} values "
                       f"where the format has {' '.join(form.channels)[:80]}; "
                       "correct the point or the traceFormat")
    axes = [[row[form.channels.index(axis)] for row in rows] for axis in "XY"]
    points = np.array([_decoded(axis, where) for axis in axes]).T.reshape(-1, 2)
    known = np.array([(x[1] != "?") & (y[1] != "?") for x, y in zip(*axes, strict=True)], bool)
    bad = np.flatnonzero(known & ~(np.abs(points) <= LARGEST_COORDINATE).all(1))  # NaN, too
    if len(bad):
        raise InkError(f"{where}, point {bad[0]}: coordinate {samples[bad[0]].split()} is NaN, "
                       "infinite or absurdly large")
    points, down = points[known] * form.scale, _touching(rows, form)[known]
    starts = np.flatnonzero(np.diff(down, prepend=False) & down)
    return [points[start:][: np.append(down[start:], False).argmin()] for start in starts]


def _values(sample: str, where: str, place: int) -> list[Value]:
    """The values of one sample."""
    text, at = sample.strip(), 0
    found: list[Value] = []
    while match := _VALUE.match(text, at):
        prefix, hex_sign, digits, sign, number, word = match.groups()
        value = float(int(hex_sign + digits, 16)) if digits else word or float(sign + number)
        found.append((prefix, value))
        at = match.end()
    if at < len(text) or not found:
        raise InkError(f"{where}, point {place}: {text[:40]!r} is no list of numbers, as InkML "
                       "writes them")
    return found


def _decoded(column: Sequence[Value], where: str) -> list[float]:
    """The values of a channel: explicit, or summed where they are differences."""
    mode, value, step, done = "!", np.nan, 0.0, []
    given: float | str = ""
    for i, (prefix, said) in enumerate(column):
        mode = prefix or mode
        given = given if said in ("*", "?") else said
        if said == "?":
            done.append(0.0)
            continue
        if not isinstance(given, float) or (mode != "!" and not done):
            raise InkError(f"{where}, point {i}: {said!r} needs a number before it; "
                           "begin each trace with explicit values")
        if mode == "!":
            step, value = given - value if done else 0.0, given
        else:
            step = given if mode == "'" else step + given
            value += step
        done.append(value)
    return done


def _touching(rows: Sequence[Sequence[Value]], form: Format) -> np.ndarray:
    """Whether the pen touches the surface at each sample, by the channel S; at first it does."""
    place = form.channels.index("S") if "S" in form.channels else len(form.channels)
    said = (str(row[place][1]) if place < len(row) else "" for row in rows)
    states = accumulate(said, lambda before, now: {"T": True, "F": False}.get(now, before),
                        initial=True)
    return np.array(list(states)[1:], bool)
