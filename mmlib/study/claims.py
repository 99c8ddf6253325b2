"""The paper's claims, each beside the comparison here that tests it and what the records say.

Verdicts go by the capped TER on validation, where an expression has at most as many errors as its
label has tokens: a single reading that runs on decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmlib.measure.intervals import SETTLED
from mmlib.study import attention_report
from mmlib.study.comparisons import NO_RECORD, seeds_of, ter_of
from mmlib.study.grid import MASKED, PROFILE, REFERENCE, SYNTHETIC
from mmlib.study.grid_results import grid_differences, occlusion_areas

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pandas import DataFrame

LABELS = 0.1  # share of the labels at which arms have several seeds
ENOUGH = 5  # seeds: with fewer, nothing is tested
UNTRAINED = "not tested: some 70 updates of stage 2"  # until a grid trains it


@dataclass(frozen=True)
class Claim:
    """A claim with the arms that test it; the first stands in the short table.

    untrained: why the comparison says nothing yet.
    """

    text: str
    rivals: tuple[str, ...]
    untrained: str = ""


CLAIMS = (
    Claim("better than supervised training at equal total pictures, with side losses", (
        "supervised-total",)),
    Claim("the same, by cross-entropy alone", (
        "supervised-total, cross-entropy alone", "supervised-total, longer",
        "supervised-total, as published", SYNTHETIC)),
    Claim("better than supervised training after the same fine-tuning", (
        "supervised, cross-entropy alone", "supervised", "supervised, longer",
        "supervised, as published")),
    Claim("better than other self-supervision", (
        "simclr", "simclr, cross-entropy alone", "byol", "mae")),
    Claim("stage 2 earns its place", (
        "contrastive", "contrastive, cross-entropy alone", "contrastive, as published"), UNTRAINED),
    Claim("the masking and its curriculum earn their place", (
        "fixed share", "nothing masked", "mask at random", "mask where attended"), UNTRAINED),
)  # fmt: skip
COLUMNS = ["claim", "compared with", "capped TER minus ours", "seeds in favour", "verdict"]


def claims_table(full: bool = False) -> DataFrame:
    """A row per claim: the rival's capped TER minus the method's, its seeds, and what follows.

    full: a row per rival, not only the first of each claim.
    """
    import pandas as pd

    differences = grid_differences(LABELS, "capped").set_index("a")
    seeds = seeds_of("valid", labels=(LABELS, 0.0), profile=PROFILE)
    rows = []
    for claim in CLAIMS:
        for number, rival in enumerate(claim.rivals if full else claim.rivals[:1]):
            name = "" if number else claim.text  # said once
            if rival not in differences.index:
                rows.append([name, rival, NO_RECORD, "", claim.untrained or NO_RECORD])
                continue
            less = differences.loc[rival]
            ours, theirs = (ter_of(seeds[arm], capped=True) for arm in (less.b, rival))
            common = ours.keys() & theirs.keys()
            won = sum(theirs[seed] > ours[seed] for seed in common)
            said = claim.untrained or _verdict(less, len(common))
            rows.append([name, rival, _interval(less), f"{won} of {len(common)}", said])
    return pd.DataFrame([*rows, *_masked(), *_attention()], columns=COLUMNS)


def _masked() -> Iterator[list[str]]:
    """How much more the TER of the rival rises with the share masked than that of the method."""
    areas, rival = occlusion_areas(LABELS).set_index(["arm", "way"]), "supervised-total, masked ink"
    rises, seeds, ours = [], ENOUGH, REFERENCE[MASKED]
    for way in areas.index.unique("way"):
        if {(rival, way), (ours, way)} <= set(areas.index):
            more = areas.rise[rival, way] - areas.rise[ours, way]
            rises.append(f"{more:+.3f} ({way})")
            seeds = min(seeds, areas.seeds[rival, way], areas.seeds[ours, way])
    said = f"not tested: {_seeds(int(seeds))}" if rises else NO_RECORD
    rise = f"TER rises by {', '.join(rises)} more" if rises else NO_RECORD
    yield ["robust to missing ink", rival, rise, "", said]


def _attention() -> Iterator[list[str]]:
    said = attention_report.conclusion()
    if said:
        ahead = ", ".join(said[attention_report.AHEAD]) or "no class"
        yield [
            "attends to operators, scripts, nested parts",
            "six controls without labels (the desk model)",
            f"ahead of every control: {ahead}",
            "",
            "not tested: 1 seed",
        ]


def _interval(less: Any) -> str:
    p = f", p {less.p:.3f}" if less.p == less.p else ""  # NaN with one seed
    return f"{less.value:+.3f} [{less.low:+.3f}, {less.high:+.3f}]{p}"


def _verdict(less: Any, seeds: int) -> str:
    """What the interval of a rival's number minus ours carries."""
    if seeds < ENOUGH:
        return f"not tested: {_seeds(seeds)}"
    if less.low <= 0 <= less.high:
        return "no difference found"
    which = "ours has fewer errors" if less.low > 0 else "ours has more errors"
    return which if less.p < SETTLED else f"{which} in these seeds, not settled"


def _seeds(count: int) -> str:
    return f"{count} seed" + "s" * (count > 1)
