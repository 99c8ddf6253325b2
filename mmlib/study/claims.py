"""The paper's claims, each beside the comparison here that asks for it and what the records say."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from mmlib.measure.intervals import SETTLED, holm
from mmlib.study import attention_report
from mmlib.study.comparisons import NO_RECORD, seeds_of, ter_of
from mmlib.study.grid import PROFILE, SYNTHETIC
from mmlib.study.grid_results import grid_differences, occlusion_areas

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pandas import DataFrame

LABELS = 0.1  # share of the labels at which arms have several seeds
# Claim, and the rivals that it is about: arms of the grid, each compared with its factor's own form of the method.
CLAIMS = {
    "better than supervised training at the same cost": (
        "supervised-total", "supervised-total, cross-entropy alone", "supervised-total, longer",
        "supervised-total, as published", SYNTHETIC),
    "better than supervised training after the same fine-tuning": (
        "supervised", "supervised, cross-entropy alone", "supervised, longer", "supervised, as published"),
    "better than other self-supervision": ("simclr", "simclr, cross-entropy alone", "byol", "mae"),
    "stage 2 earns its place": (
        "contrastive", "contrastive, cross-entropy alone", "contrastive, as published"),
    "the masking and its curriculum earn their place": ("nothing hidden", "fixed share"),
}
ERRORS, RISES = ("ours has fewer errors", "ours has more errors"), ("ours rises less", "ours rises more")


def claims_table() -> DataFrame:
    """A row for each claim and rival: TER of the rival minus that of the method on CROHME's validation split, also capped (with
    at most as many errors in an expression as its label has tokens), its seeds and what follows of the TER; then reading with ink
    hidden, and where the attention lies."""
    import pandas as pd

    columns = ["the paper's claim", "compared with", "difference", "capped", "seeds", "what follows"]
    frame = pd.DataFrame([*_compared(), *_hidden(), *_attention()], columns=columns)
    frame.loc[frame[columns[0]].duplicated(), columns[0]] = ""  # said once
    return frame


def _compared() -> Iterator[tuple[str, ...]]:
    found, capped = (grid_differences(LABELS, metric=metric).set_index("a") for metric in ("ter", "capped"))
    seeds = seeds_of("valid", labels=LABELS, profile=PROFILE)
    for claim, rivals in CLAIMS.items():
        for rival in rivals:
            if rival not in found.index:
                yield claim, rival, NO_RECORD, "", "", ""
                continue
            row, bounded = found.loc[rival], capped.loc[rival]
            own = ter_of(seeds[row.b]).values()
            yield (claim, rival, f"TER {_interval(row)}", _interval(bounded), str(row.seeds[0]),
                   _follows(row.low, row.high, row.seeds[0], row.p, abs(row.value) < max(own) - min(own)))


def _hidden() -> Iterator[tuple[str, ...]]:
    areas = occlusion_areas(LABELS)
    areas = areas[areas.arm.str.startswith("supervised-total")].dropna(subset="common")
    kinds = (("mean TER", "difference", ERRORS), ("rise of TER", "rise_difference", RISES))
    asked = list(product(areas.itertuples(), kinds))
    p_values = holm([getattr(row, f"{less}_p") for row, (_, less, _) in asked])
    for (row, (what, less, words)), p in zip(asked, p_values, strict=True):
        value, high, low = (-getattr(row, less + end) for end in ("", "_low", "_high"))
        yield ("robust to missing ink", f"{row.arm}, {row.way}", f"{what} {value:+.3f} [{low:+.3f}, {high:+.3f}]", "",
               f"{row.common:.0f}", _follows(low, high, int(row.common), p, words=words))


def _attention() -> Iterator[tuple[str, ...]]:
    said = attention_report.conclusion()
    if said:
        told = "; ".join(f"{words}: {', '.join(part.replace(', ', ' of ') for part in said[words]) or 'none'}"
                         for words in (attention_report.AHEAD, attention_report.EVEN, attention_report.BEHIND))
        yield ("attends to operators, scripts, nested parts", "six controls without labels (the model of the profile desk)",
               told, "", "1", "one seed: no claim")


def _interval(less: Any) -> str:
    """A row of `differences` as text, with its p where several seeds give one."""
    p = f", p {less.p:.3f}" if less.p == less.p else ""
    return f"{less.value:+.3f} [{less.low:+.3f}, {less.high:+.3f}]{p}"


def _follows(low: float, high: float, seeds: int, p: float, small: bool = False, words: tuple[str, str] = ERRORS) -> str:
    """What the interval of a rival's number minus ours carries, in words for above 0 and below; `p` over seeds; `small`: our own
    seeds differ by more."""
    which = words[0] if low > 0 else words[1] if high < 0 else ""
    if seeds == 1:
        few = f"{which}, by less than its own seeds differ" if small else which
        return f"one seed: no claim{f' ({few})' if which else ''}"
    if not which:
        return "no difference found"
    return which if p < SETTLED else f"{which} in these seeds; too few to settle it"
