"""The paper's claims, each beside the comparison that tests it, and what the records say.

The hypotheses were written down before their runs: `docs/protocol.md`. They are tested in their
order, each only if those before it hold, by sign flips over paired seeds of the capped TER on
validation, where an expression has at most as many errors as its label has tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmlib.measure.intervals import SETTLED, interval, sign_flips, t_test
from mmlib.store.files import results_root
from mmlib.study import attention_report, comparisons, results
from mmlib.study.arms import ARMS, LABELS_ALONE, MASKED, OURS, PROFILE
from mmlib.study.comparisons import NO_RECORD, differences, metric_sums, runs_of, scored, seeds_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pandas import DataFrame, Series

LABELS = 0.1  # share of the training labels
SEEDS = tuple(range(20, 28))  # of the hypotheses; those below 20 are the pilot's
ENOUGH = 6  # seeds: of five, no flip of signs is below 0.05, so with fewer nothing is tested


@dataclass(frozen=True)
class Claim:
    """`ours` has fewer errors than a rival; `ordered` ones are the hypotheses."""

    text: str
    rival: str
    ordered: bool = True
    ours: str = OURS


CLAIMS = (
    Claim("better than labels alone, at equal total pictures", LABELS_ALONE),
    Claim("attention with masking earns its place beside contrast", "contrastive"),
    Claim("a growing mask is better than a fixed one", "fixed share"),
    Claim("the match alone, as the abstract has it: better than labels alone", LABELS_ALONE,
          ordered=False, ours="match alone"),
    Claim("better than other self-supervision: SimCLR", "simclr", ordered=False),
    Claim("better than other self-supervision: masked autoencoder", "mae", ordered=False),
)
COLUMNS = ["claim", "compared with", "capped TER, rival minus ours", "seeds in favour", "verdict"]
NO_DIFFERENCE, FEWER, MORE = "no difference found", "ours has fewer errors", "ours has more errors"
PILOT_RIVAL = "labels alone, 200,000 pictures"


def claims_table() -> DataFrame:
    """A row per claim: the rival's capped TER minus the method's, its seeds, and what follows."""
    import pandas as pd

    rows, runs, holds = [], results.run_rows(), True  # whether all hypotheses so far hold
    for claim in CLAIMS:
        row, settled = _tested(claim, holds, runs)
        holds = holds and (settled or not claim.ordered)
        rows.append([claim.text, claim.rival, *row])
    return pd.DataFrame([*rows, _masked(), *_attention()], columns=COLUMNS)


def verdicts() -> DataFrame:
    """How many claims hold, fail, or are open: one row."""
    import pandas as pd

    said = claims_table().verdict
    counts = {title: int(said.str.startswith(of).sum()) for title, of in (
        ("confirmed", FEWER), ("refuted", MORE), (NO_DIFFERENCE, NO_DIFFERENCE))}
    row = {"claims": len(said)} | counts | {"not settled": len(said) - sum(counts.values())}
    return pd.DataFrame([row])


def arm_differences() -> DataFrame:
    """Capped TER of each arm minus ours, over the seeds that both have."""
    pairs = [(arm, OURS) for arm in ARMS if arm != OURS]
    return differences(pairs, "valid", "capped", labels=LABELS, profile=PROFILE)


def second_endpoint() -> DataFrame:
    """The hypotheses' arms by validation loss, from `scripts.trials.second_endpoint`.

    Of each arm the mean ± std over its seeds, and its loss minus ours over the seeds of both.
    """
    import pandas as pd

    path = results_root() / "trials" / "second_endpoint.json"
    found = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    columns = ["arm", "nats per token", "minus ours, mean ± std", "seeds in favour"]
    frame = pd.DataFrame(found, columns=["arm", "seed", "nats per token"])
    table = frame.pivot(index="seed", columns="arm", values="nats per token")
    rows = [[arm, _spread(table[arm]), _spread(less := (table[arm] - table[OURS]).dropna()),
             f"{(less > 0).sum()} of {len(less)}"] for arm in table if arm != OURS]
    return pd.DataFrame([[OURS, _spread(table[OURS]), "", ""], *rows] if found else [],
                        columns=columns)


def _spread(values: Series) -> str:
    return f"{values.mean():.3f} ± {values.std():.3f} (n = {values.count()})"


def chain_faults(run: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The gates (`mmlib.train.health`) that a run failed, and all that it started from.

    rows: of `results.run_rows`.
    """
    found = []
    while run in rows:
        found += rows[run]["summary"].get("gates", [])
        run = rows[run]["start"]
    return found


def _tested(claim: Claim, holds: bool, rows: Mapping[str, Mapping[str, Any]]
            ) -> tuple[list[str], bool]:
    """Difference, seeds in favour and verdict; whether ours is better.

    holds: whether all hypotheses before this one hold. rows: of `results.run_rows`.
    """
    pair = [(claim.rival, claim.ours)]
    found = differences(pair, "valid", "capped", labels=LABELS, profile=PROFILE, seeds=SEEDS)
    if found.empty:
        return [NO_RECORD, "", NO_RECORD], False
    (row,) = found.itertuples()
    less = np.array([*row.by_seed.values()])
    p, runs = sign_flips(less), runs_of("valid", labels=LABELS, profile=PROFILE)
    gates = [fault for arm in (claim.ours, claim.rival) for seed in row.by_seed
             for fault in chain_faults(runs[arm][seed], rows)]
    said = f"{row.value:+.3f} [{row.low:+.3f}, {row.high:+.3f}], p {p:.3f}"
    said += f" (t-test {t_test(less):.3f})" if len(less) > 1 else ""
    better = p < SETTLED and less.mean() > 0
    won = f"{(less > 0).sum()} of {len(less)}"
    return [said, won, _verdict(less, p, gates, holds or not claim.ordered)], bool(better)


def _verdict(less: np.ndarray, p: float, gates: list[str], holds: bool) -> str:
    if len(less) < ENOUGH:
        return f"not tested: {len(less)} seed" + "s" * (len(less) > 1)
    if gates:
        return f"not tested: {gates[0]}"
    if not holds:
        return "not tested: a hypothesis before it does not hold"
    if p >= SETTLED:
        return NO_DIFFERENCE
    early = f", after {len(less)} of {len(SEEDS)} seeds" if len(less) < len(SEEDS) else ""
    return (FEWER if less.mean() > 0 else MORE) + early


def _masked() -> list[str]:
    """How much smaller the method's area of TER over the share masked is than the rival's."""
    ours, rival = (f"{arm}, {MASKED}" for arm in (OURS, LABELS_ALONE))
    areas, said, seeds = comparisons.occlusion_areas(LABELS).set_index(["arm", "way"]), [], ENOUGH
    for way in areas.index.unique("way"):
        if {(rival, way), (ours, way)} <= set(areas.index):
            share = 1 - areas.value[ours, way] / areas.value[rival, way]
            said.append(f"area of TER {share:+.0%} smaller ({way})")
            seeds = min(seeds, areas.seeds[rival, way], areas.seeds[ours, way])
    few = f"not tested: {seeds} seed" + "s" * (seeds > 1) if seeds < ENOUGH else "see the areas"
    return ["robust to missing ink", rival, "; ".join(said) or NO_RECORD, "",
            few if said else NO_RECORD]


def _attention() -> Iterator[list[str]]:
    """On which classes of symbols the attention is ahead of every control: one seed so far."""
    found = []
    for of, maps in (("", "mean of the maps"), ("map_", "best single map")):
        if said := attention_report.conclusion(of):
            ahead = ", ".join(said[attention_report.AHEAD]) or "no class"
            found.append(f"{maps}: ahead on {ahead}")
    if found:
        yield ["attends to operators, scripts, nested parts", "six controls", "; ".join(found), "",
               "not tested: 1 seed"]


def pilot_intervals() -> DataFrame:
    """The pilot's arms: capped TER on validation (an `Interval`'s columns), pictures and minutes.

    `less_value`, `less_low` and `less_high`: `PILOT_RIVAL`'s minus the arm's, paired.
    """
    import pandas as pd

    found = seeds_of("valid", LABELS, "pilot")
    rows = [{"arm": arm, **vars(interval(*metric_sums(own.values(), "capped")))}
            for arm, own in found.items()]
    costs = scored("valid", LABELS, "pilot").groupby("arm")[["pictures", "minutes"]].mean()
    pairs = [(PILOT_RIVAL, arm) for arm in found if arm != PILOT_RIVAL]
    less = differences(pairs, "valid", "capped", labels=LABELS, profile="pilot").set_index("b")
    frame = pd.DataFrame(rows, columns=["arm", *comparisons.COLUMNS]).join(costs, on="arm")
    return frame.join(less[["value", "low", "high"]].add_prefix("less_"), on="arm")


def pilot() -> DataFrame:
    """The pilot's arms as text: capped TER, paired with labels alone, and what each cost."""
    import pandas as pd

    rows = [[row.arm, f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]",
             f"{row.less_value:+.3f} [{row.less_low:+.3f}, {row.less_high:+.3f}]"
             if row.arm != PILOT_RIVAL else "", f"{row.pictures:,.0f}", f"{row.minutes:.0f}"]
            for row in pilot_intervals().itertuples()]
    rows.sort(key=lambda row: row[1])
    return pd.DataFrame(rows, columns=["arm", "capped TER", "labels alone minus it, paired",
                                       "pictures in all", "minutes"])


def first_study() -> DataFrame:
    """The first, small grid: capped TER by arm and share of the labels, mean ± std over seeds.

    Arms with a stage 2 are withdrawn: it had some 70 updates. n is the number of seeds.
    """
    import pandas as pd

    rows = results.run_rows()
    table: dict[str, dict[str, str]] = {}
    for labels in (0.05, 0.1, 0.25, 1.0):
        runs = runs_of("valid", labels=labels, profile="ablate")
        for arm, own in seeds_of("valid", labels=labels, profile="ablate").items():
            tuned = rows[next(iter(runs[arm].values()))]["start"]
            if rows.get(rows[tuned]["start"], {"stage": ""})["stage"] == "attend":
                continue
            errors, length = metric_sums(own.values(), "capped")
            ter = np.nansum(errors, 1) / length.sum()
            spread = f" ± {ter.std(ddof=1):.3f}" if len(ter) > 1 else ""
            cell = f"{ter.mean():.3f}{spread} (n = {len(ter)})"
            table.setdefault(arm, {})[f"{labels:.0%}"] = cell
    frame = pd.DataFrame.from_dict(table, orient="index").fillna("")
    return frame.rename_axis("arm").sort_index().reset_index()
