"""The grid of ablations: arms at equal cost, one factor at a time.

An arm is one line of `grid`: the changes that it makes to each stage of its chain; all else is the
preset's. A stage that it does not name is left out, and the next one starts from what there is.
Stages that two arms share are trained once: a run is named by its whole configuration.

The budget unit is the picture; an expression of stages 1 and 2 costs one for each view. The whole
method spends what the profile's presets say; arms without stage 2 spend its share on stage 1, and
'supervised-total' spends everything on labels. The profile 'ablate' reads validation alone,
greedily; the others read the tests, too. The grid pauses and goes on: what has a record is not done
again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mmlib.data.corpus import load_corpus, synthetic_pack
from mmlib.data.prepare import load_pack
from mmlib.draw.views import ViewConfig
from mmlib.store.files import RunError
from mmlib.store.run import Run
from mmlib.study import records, results
from mmlib.study.evaluate import evaluate
from mmlib.train import attend, finetune, pretrain, profiles
from mmlib.train.cost import views_of
from mmlib.train.loop import Paused

PROFILE = "ablate"
STAGES = {"pretrain": pretrain, "attend": attend, "finetune": finetune}
Changes = Mapping[str, Any]  # to a stage's preset; a part of a configuration may be a mapping, too
UNCHANGED: Changes = {}
Chain = Mapping[str, Changes]  # by stage
# Factors that other modules name.
LEVERS, PLAIN = "levers of fine-tuning", "labels as they were written"
SIDELESS = "cross-entropy alone"
LONGER = "cross-entropy alone, five times the fine-tuning"
PUBLISHED = "as most published recognisers are taught"  # as written, cross-entropy alone, longer
MASKED = "fine-tuned with masked ink"
RATES = "learning rate of fine-tuning"
SYNTHETIC = "supervised on synthetic ink"  # an arm without any label of the real ink
# What a factor's arms are compared with, where that is not the whole method.
REFERENCE = {
    MASKED: "mask-match, masked ink",
    LEVERS: "supervised",
    PLAIN: "mask-match, as written",
    LONGER: "mask-match, longer",
    PUBLISHED: "mask-match, as published",
    SIDELESS: "mask-match, cross-entropy alone",
}
COMPARED = ("mask-match", "supervised", "supervised-total")  # what other profiles train
OCCLUSION = (0.1, 0.2, 0.3)  # shares of ink masked when the arms of `MASKED` are read
READ = {"crohme": ("test_2014", "test_2016", "test_2019", "valid"), "synthetic": ("test", "valid")}


def budget(profile: str = PROFILE) -> tuple[int, ...]:
    """Pictures that the whole method spends on stages 1, 2 and 3 in a profile."""
    spent = []
    for name in STAGES:
        preset = profiles.preset(name, profile)
        spent.append(preset.pictures * views_of(name, asdict(preset)))
    return tuple(spent)


def grid(first: int, second: int, labelled: int) -> dict[str, dict[str, Chain]]:
    """The arms of each factor, by name, at a cost in pictures as `budget` gives it."""

    def whole(attend: Changes = UNCHANGED, finetune: Changes = UNCHANGED, **pretrain: Any) -> Chain:
        """The whole method with some choices changed."""
        return {
            "pretrain": {"pictures": first // 2, **pretrain},
            "attend": {"pictures": second // 2, **attend},
            "finetune": {"pictures": labelled, **finetune},
        }

    def alone(finetune: Changes = UNCHANGED, **pretrain: Any) -> Chain:
        """Stage 1 with stage 2's share, then fine-tuning."""
        share = {"pictures": (first + second) // 2, **pretrain}
        return {"pretrain": share, "finetune": {"pictures": labelled, **finetune}}

    def labels_only(**finetune: Any) -> Chain:
        """The same fine-tuning from random weights."""
        return {"finetune": {"pictures": labelled, **finetune}}

    total = {"pictures": first + second + labelled}  # all of it in fine-tuning
    recombined = ("symbol", "subexpression", "join", "swap_hand", "relabel")
    plain = {"composed": 0.0, "augment": dict.fromkeys(recombined, 0.0)}
    sideless = {"point_weight": 0.0, "guide_weight": 0.0}  # which show every ink point its class
    longer = sideless | {"pictures": 5 * labelled}
    longer_total = sideless | {"pictures": first + second + 5 * labelled}
    masked = {"mask_share": (0.0, 0.5)}
    mae = alone(objective="mae", pictures=first + second)  # one view per expression
    unused = {"modulate": False, "slots": False}

    tried = {
        "mask-match": whole(),
        "contrastive": alone(),
        "simclr": alone(balance=1.0),
        "mae": mae,
        "supervised-total": labels_only(**total),
    }
    rates: dict[str, Chain] = {  # half and twice the preset's
        f"{arm}, rate {rate:g}": {**chain, "finetune": {**chain["finetune"], "optim": {"lr": rate}}}
        for arm, chain in tried.items()
        for rate in (2.5e-3, 1e-2)
    }

    return {
        "whole method": {
            "mask-match": whole(),
            "contrastive": alone(),
            "supervised": labels_only(),
            "supervised-total": labels_only(**total),
            "supervised-total, no module": labels_only(**total, model={"maps": 0}),
            SYNTHETIC: labels_only(**total, dataset="synthetic", labels=1.0),
        },
        "objective of stage 1": {
            "simclr": alone(balance=1.0),
            "dense": alone(balance=0.0),
            "byol": alone(objective="byol"),
            "mae": mae,
        },
        "positives and negatives of stage 1": {
            "places of the paper": alone(positives="paper"),
            "similar negatives count less": alone(negatives="similarity"),
            "no false negatives": alone(negatives="labels"),  # needs labels: an oracle
        },
        "masking": {
            "nothing masked": whole({"ratio": (0.0, 0.0)}),
            "fixed share": whole({"schedule": "fixed"}),
            "up to 0.3": whole({"ratio": (0.05, 0.3)}),
            "up to 0.7": whole({"ratio": (0.05, 0.7)}),
        },
        "place of the mask": {
            "mask at random": whole({"attended": (0.0, 0.0)}),
            "mask where attended": whole({"attended": (0.7, 0.7)}),
        },
        "maps": {
            "4 maps": whole({"maps": 4}, {"model": {"maps": 4}}),
            "16 maps": whole({"maps": 16}, {"model": {"maps": 16}}),
        },
        "use of the attention": {
            "modulation alone": whole({}, {"model": {"slots": False}}),
            "slots alone": whole({}, {"model": {"modulate": False}}),
            "attention unused": whole({}, {"model": unused}),
        },
        "balance and temperature under stage 2": {
            "mask-match, wholes only": whole(balance=1.0),
            "mask-match, mostly wholes": whole(balance=0.8),
            "mask-match, local temperature 0.2": whole(local_temperature=0.2),
        },
        "rate of the pretrained encoder": {
            "encoder at 0.3 of the rate": whole({}, {"encoder_rate": 0.3}),
            "encoder at 0.1 of the rate": whole({}, {"encoder_rate": 0.1}),
        },
        RATES: rates,
        PLAIN: {
            "mask-match, as written": whole({}, plain),
            "contrastive, as written": alone(plain),
            "supervised-total, as written": labels_only(**total, **plain),
        },
        SIDELESS: {
            "mask-match, cross-entropy alone": whole({}, sideless),
            "contrastive, cross-entropy alone": alone(sideless),
            "simclr, cross-entropy alone": alone(sideless, balance=1.0),
            "supervised, cross-entropy alone": labels_only(**sideless),
            "supervised-total, cross-entropy alone": labels_only(**total, **sideless),
        },
        LONGER: {
            "mask-match, longer": whole({}, longer),
            "supervised, longer": labels_only(**longer),
            "supervised-total, longer": labels_only(**longer_total),
        },
        PUBLISHED: {
            "mask-match, as published": whole({}, plain | longer),
            "contrastive, as published": alone(plain | longer),
            "supervised, as published": labels_only(**plain, **longer),
            "supervised-total, as published": labels_only(**plain, **longer_total),
        },
        MASKED: {
            "mask-match, masked ink": whole({}, masked),
            "contrastive, masked ink": alone(masked),
            "supervised-total, masked ink": labels_only(**total, **masked),
        },
        LEVERS: {
            "no composed ink": labels_only(composed=0.0),
            "no cuts, no recombination": labels_only(augment=plain["augment"]),
            "no composed ink, no recombination": labels_only(**plain),
            "no warps": labels_only(view=asdict(ViewConfig().still())),
            "no point loss": labels_only(point_weight=0.0),
            "no guide loss": labels_only(guide_weight=0.0),
            "no input noise": labels_only(input_noise=0.0),
            "averaged weights": labels_only(average=50),
            "AdamW": labels_only(optim={"muon": False, "lr": 1e-3}),
        },
    }  # fmt: skip


GRID = grid(*budget())
ARMS = {arm: chain for arms in GRID.values() for arm, chain in arms.items()}


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: an arm by a seed, at a share of the labels."""

    arm: str
    seed: int = 0
    labels: float = 1.0

    def __str__(self) -> str:
        return f"{self.arm}, seed {self.seed}, {self.labels:.0%} of labels"


def cells(names: Sequence[str] = (), seeds: Sequence[int] = (0,), labels: Sequence[float] = (1.0,)
          ) -> list[Cell]:
    """The cells of these arms or factors, seed by seed; without names, of all arms.

    What is trained on synthetic ink uses no label, so has one cell per seed. Raises RunError for an
    unknown name.
    """
    known = {arm: [arm] for arm in ARMS} | {factor: [*arms] for factor, arms in GRID.items()}
    if unknown := [name for name in names if name not in known]:
        factors, arms = "; ".join(GRID), "; ".join(ARMS)
        raise RunError(f"the grid has no {unknown[0]!r}; factors: {factors}. Arms: {arms}")
    chosen = dict.fromkeys(arm for name in names or GRID for arm in known[name])
    found: dict[Cell, None] = {}
    for share, seed, arm in product(labels, seeds, chosen):
        found[Cell(arm, seed, 0.0 if arm == SYNTHETIC else share)] = None
    return list(found)


def changed(config: Any, changes: Changes) -> Any:
    """A configuration with some fields changed; a mapping changes a part of it.

    Raises TypeError for an unknown field.
    """
    values = {}
    for name, value in changes.items():
        part = isinstance(value, Mapping)
        values[name] = changed(getattr(config, name), value) if part else value
    return replace(config, **values)


def configs(cell: Cell, chain: Chain, profile: str = PROFILE, dataset: str = "crohme",
            preset: Mapping[str, Changes] = {}) -> dict[str, Any]:
    """The configuration of each stage of a chain, but for the run that it starts from.

    preset: changes to the profile's presets, for all arms alike.
    """
    found = {}
    for name in STAGES:
        if name in chain:
            own = {"labels": cell.labels, "init": "none"} if name == "finetune" else {}
            common = profiles.preset(name, profile, dataset=dataset, seed=cell.seed, **own)
            found[name] = changed(changed(common, preset.get(name, {})), chain[name])
    return found


def train(cell: Cell, chain: Chain, profile: str = PROFILE, dataset: str = "crohme",
          preset: Mapping[str, Changes] = {}, progress: bool = True,
          max_minutes: Callable[[], float | None] = lambda: None) -> dict[str, Run]:
    """Train a chain, or find it trained here; the run of each stage. Arguments as for `configs`.

    Raises Paused when `max_minutes()` are over; the same call goes on.
    """
    done: dict[str, Run] = {}
    for name, config in configs(cell, chain, profile, dataset, preset).items():
        if done:
            config = replace(config, init=next(reversed(done.values())).name)
        done[name] = STAGES[name].run(config, profile, max_minutes(), progress=progress)
    return done


def ablate(cells: Sequence[Cell], dataset: str = "crohme", profile: str = PROFILE,
           max_minutes: float | None = None) -> None:
    """Train and read each cell that has no record yet; prints what is done and what is left.

    Raises Paused when the minutes are over; the same call goes on. A failure stops the grid.
    """
    began = time.monotonic()

    def left() -> float | None:
        spent = (time.monotonic() - began) / 60
        return None if max_minutes is None else max(0.0, max_minutes - spent)

    arms, done = _arms(profile), recorded_cells(dataset, profile)
    todo = [cell for cell in cells if cell not in done]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} of them done")
    for number, cell in enumerate(todo):
        since = time.monotonic()
        chain = train(cell, arms[cell.arm], profile, dataset, max_minutes=left)
        if profile == PROFILE:
            _probe(cell, chain, dataset)
        said = _read(cell, chain["finetune"], dataset, profile, left)
        spent, rest = (time.monotonic() - since) / 60, len(todo) - number - 1
        left_over = f"{rest} to go, {rest * spent:.0f} minutes at this rate"
        print(f"{cell}: {said}; {spent:.1f} minutes; {left_over}", flush=True)


def recorded_cells(dataset: str = "crohme", profile: str = PROFILE, split: str = "valid"
                   ) -> set[Cell]:
    """The cells that have their record of a split, read without a mask."""
    wanted = {"profile": profile, "dataset": dataset, "split": split, "stage": "evaluate"}
    wanted |= {"metric": "ter", "occlusion": "0"}
    return {
        Cell(row["arm"], int(row["seed"]), 0.0 if row["arm"] == SYNTHETIC else float(row["labels"]))
        for row in records.rows()
        if wanted.items() <= row.items()
    }


def plan(cells: Sequence[Cell], dataset: str = "crohme", profile: str = PROFILE) -> str:
    """What is done and what is to do, a line per cell; runs that cells share are counted once."""
    arms, done, known = _arms(profile), recorded_cells(dataset, profile), set()
    lines, minutes = [], 0.0
    speed = _minutes_per_picture(dataset, profile)
    for cell in sorted(cells, key=lambda cell: cell not in done):
        cost, chain = [], ""
        for name, config in configs(cell, arms[cell.arm], profile, dataset).items():
            chain += str(config)
            if chain not in known:
                known.add(chain)
                pictures = config.pictures * views_of(name, vars(config))
                cost.append(f"{name} {pictures:,}")
                minutes += 0.0 if cell in done else speed.get(name, float("nan")) * pictures
        ahead = f"to do  {cell}: {', '.join(cost)} pictures"
        lines.append(f"done   {cell}" if cell in done else ahead)
    if done.issuperset(cells):
        return "\n".join([*lines, "nothing to do"])
    known_cost = f"about {minutes:.0f} minutes to go, at the speed of the runs that are kept"
    unknown = "how long it takes is not known: no run of this profile is kept"
    return "\n".join([*lines, known_cost if minutes == minutes else unknown])


def packs(dataset: str = "crohme") -> list[Path]:
    """Make all packs that the grid reads, to carry to a machine without archives; their files."""
    corpus = load_corpus(dataset)
    found = [corpus.pack.path, corpus.composed(np.sort(corpus.train)).path]
    if dataset == "synthetic":
        return [*found, synthetic_pack("test").path]
    return [*found, *(load_pack(split).path for split in READ[dataset] if split != "valid")]


def _arms(profile: str) -> dict[str, Chain]:
    return {arm: chain for arms in grid(*budget(profile)).values() for arm, chain in arms.items()}


def _read(cell: Cell, run: Run, dataset: str, profile: str, left: Callable[[], float | None]
          ) -> str:
    """Read what the cell's run is read on and has no record of; the last reading in words."""
    masks = [(0.0, False)]
    if cell.arm in GRID[MASKED]:
        masks = [(share, removal) for share in OCCLUSION for removal in (False, True)] + masks
    splits = ("valid",) if profile == PROFILE else READ[dataset]
    beam = 1 if profile == PROFILE else 5
    for split in splits:  # validation comes last: it marks the cell as done
        if cell in recorded_cells(dataset, profile, split):
            continue
        for share, removal in masks:
            if left() == 0:
                raise Paused(f"{cell} is trained and not read yet; the same command goes on")
            score = evaluate(run.folder, dataset, split, beam, arm=cell.arm, profile=profile,
                             occlusion=share, removal=removal)
    return f"TER {score.ter:.3f}, ExpRate {score.exprate:.1%}, n = {score.n}"


def _probe(cell: Cell, chain: Mapping[str, Run], dataset: str) -> None:
    """Probe what the encoder knew before any label."""
    from mmlib.study.probe import probe  # needs more than a bare GPU machine has

    label_free = [run for stage, run in chain.items() if stage != "finetune"]
    if label_free and label_free[-1].weights.is_file():
        probe(label_free[-1], dataset, arm=cell.arm)


def _minutes_per_picture(dataset: str, profile: str) -> dict[str, float]:
    """Of each stage that has a kept run."""
    spent: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for row in results.run_rows().values():
        if (row["profile"], row["dataset"]) == (profile, dataset) and row["stage"] in STAGES:
            spent[row["stage"]] += float(row["minutes"]), float(row["pictures"])
    return {stage: minutes / pictures for stage, (minutes, pictures) in spent.items()}
