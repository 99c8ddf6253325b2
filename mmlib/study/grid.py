"""The grid of ablations: arms at equal cost, one factor at a time.

An arm is one entry of `GRID`: the changes that it makes to each stage of its chain; all else is the preset's. A stage that it
does not name is left out, and the next one starts from what there is. Stages that two arms have in common
are trained once: the run store knows every run by its whole configuration.

The budget unit is the picture; an expression of stages 1 and 2 costs one for each view. An arm spends `FIRST` + `SECOND`
pictures without labels and `LABELLED` with them. One without stage 2 spends that share on more of stage 1; random weights come
at `LABELLED`, and at the total. The arms of `LONGER` and `PUBLISHED` spend five times `LABELLED`. Validation alone is read,
greedily; no test is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmlib.draw.views import ViewConfig
from mmlib.store.runs import Run, RunError, elsewhere, find_runs, results_root, training_cost, views_of
from mmlib.study import records
from mmlib.study.evaluate import evaluate
from mmlib.study.probe import probe
from mmlib.train import attend, finetune, pretrain

PROFILE = "ablate"
STAGES = {"pretrain": pretrain, "attend": attend, "finetune": finetune}
FIRST, SECOND, LABELLED = 12_000, 4_000, 10_000  # pictures: stage 1, stage 2, fine-tuning
TOTAL = FIRST + SECOND + LABELLED
Chain = Mapping[str, Mapping[str, Any]]  # the changes to each stage's preset; a part of a configuration may be a mapping, too


MASKED, LEVERS, PLAIN = "fine-tuned under covers", "levers of fine-tuning", "labels as they were written"
LONGER = "cross-entropy alone, five times the fine-tuning"
PUBLISHED = "as most published recognisers are taught"  # labels as written, cross-entropy alone, five times the fine-tuning
SIDELESS = "cross-entropy alone"  # without the side losses, which show every ink point its class
SYNTHETIC = "supervised on synthetic ink"  # an arm without any label of the real ink
RATES = "learning rate of fine-tuning"  # half and twice the preset's
OCCLUSION = (0.1, 0.2, 0.3)  # shares of ink masked when the arms that were fine-tuned under covers are read
# What a factor's arms are compared with, where that is not the whole method.
REFERENCE = {MASKED: "mask-match, covers", LEVERS: "supervised", PLAIN: "mask-match, as written",
             LONGER: "mask-match, longer", PUBLISHED: "mask-match, as published", SIDELESS: "mask-match, cross-entropy alone"}
RECOMBINED = ("symbol", "subexpression", "join", "swap_hand", "relabel")  # shares of samples not written as they stand


def grid(first: int = FIRST, second: int = SECOND, labelled: int = LABELLED) -> dict[str, dict[str, Chain]]:
    """The arms of each factor at this cost, in pictures: factor, arm, chain. A new arm is one line here."""
    total = {"pictures": first + second + labelled}  # all of it in fine-tuning

    masked = {"mask_share": (0.0, 0.5)}  # share of ink masked in fine-tuning
    plain = {"composed": 0.0, "augment": dict.fromkeys(RECOMBINED, 0.0)}  # no ink composed or recombined from labelled symbols

    sideless = {"point_weight": 0.0, "guide_weight": 0.0}
    longer = sideless | {"pictures": 5 * labelled}
    longer_total = sideless | {"pictures": first + second + 5 * labelled}

    def alone(finetune: Mapping[str, Any] = {}, **changes: Any) -> Chain:
        """Stage 1 with stage 2's share."""
        return {"pretrain": {"pictures": (first + second) // 2, **changes}, "finetune": {"pictures": labelled, **finetune}}

    def whole(attend: Mapping[str, Any] = {}, finetune: Mapping[str, Any] = {}) -> Chain:
        """The whole method, with some choices of its last stages changed."""
        return {"pretrain": {"pictures": first // 2}, "attend": {"pictures": second // 2, **attend},
                "finetune": {"pictures": labelled, **finetune}}

    def levered(**changes: Any) -> Chain:
        """Fine-tuning alone."""
        return {"finetune": {"pictures": labelled, **changes}}

    simclr, mae = alone(balance=1.0), alone(objective="mae", pictures=first + second)  # mae: one view an expression
    return {
        "whole method": {
            "mask-match": whole(),
            "contrastive": alone(),
            "supervised": levered(),
            "supervised-total": {"finetune": total},
            "supervised-total, no module": {"finetune": total | {"model": {"maps": 0}}},
            SYNTHETIC: {"finetune": total | {"dataset": "synthetic", "labels": 1.0}},
        },
        "objective of stage 1": {
            "simclr": simclr,
            "dense": alone(balance=0.0),
            "byol": alone(objective="byol"),
            "mae": mae,
        },
        "positives and negatives of stage 1": {
            "places of the paper": alone(positives="paper"),
            "similar negatives count less": alone(negatives="similarity"),
            "no false negatives": alone(negatives="labels"),  # which a method without labels cannot know
        },
        "masking": {
            "nothing hidden": whole({"ratio": (0.0, 0.0)}),
            "fixed share": whole({"schedule": "fixed"}),
            "up to 0.3": whole({"ratio": (0.05, 0.3)}),
            "up to 0.7": whole({"ratio": (0.05, 0.7)}),
        },
        "place of covers": {
            "random covers": whole({"attended": (0.0, 0.0)}),
            "attended covers": whole({"attended": (0.7, 0.7)}),
        },
        "maps": {
            "4 maps": whole({"maps": 4}, {"model": {"maps": 4}}),
            "16 maps": whole({"maps": 16}, {"model": {"maps": 16}}),
        },
        "use of the attention": {
            "modulation alone": whole({}, {"model": {"slots": False}}),
            "slots alone": whole({}, {"model": {"modulate": False}}),
            "attention unused": whole({}, {"model": {"modulate": False, "slots": False}}),
        },
        "balance and temperature under stage 2": {
            f"mask-match, {name}": {**whole(), "pretrain": {"pictures": first // 2, **changes}}
            for name, changes in {
                "wholes only": {"balance": 1.0},
                "mostly wholes": {"balance": 0.8},
                "local temperature 0.2": {"local_temperature": 0.2},
            }.items()
        },
        "rate of the pretrained encoder": {
            "encoder at 0.3 of the rate": whole({}, {"encoder_rate": 0.3}),
            "encoder at 0.1 of the rate": whole({}, {"encoder_rate": 0.1}),
        },
        RATES: {
            f"{arm}, rate {rate:g}": {**chain, "finetune": {**chain["finetune"], "optim": {"lr": rate}}}
            for arm, chain in {
                "mask-match": whole(),
                "contrastive": alone(),
                "simclr": simclr,
                "mae": mae,
                "supervised-total": {"finetune": total},
            }.items()
            for rate in (2.5e-3, 1e-2)
        },
        PLAIN: {
            "mask-match, as written": whole({}, plain),
            "contrastive, as written": alone(plain),
            "supervised-total, as written": {"finetune": total | plain},
        },
        SIDELESS: {
            "mask-match, cross-entropy alone": whole({}, sideless),
            "contrastive, cross-entropy alone": alone(sideless),
            "simclr, cross-entropy alone": alone(sideless, balance=1.0),
            "supervised, cross-entropy alone": levered(**sideless),
            "supervised-total, cross-entropy alone": {"finetune": total | sideless},
        },
        LONGER: {
            "mask-match, longer": whole({}, longer),
            "supervised, longer": levered(**longer),
            "supervised-total, longer": {"finetune": longer_total},
        },
        PUBLISHED: {
            "mask-match, as published": whole({}, plain | longer),
            "contrastive, as published": alone(plain | longer),
            "supervised, as published": levered(**plain, **longer),
            "supervised-total, as published": {"finetune": plain | longer_total},
        },
        MASKED: {
            "mask-match, covers": whole({}, masked),
            "contrastive, covers": alone(masked),
            "supervised-total, covers": {"finetune": total | masked},
        },
        LEVERS: {
            "no composed ink": levered(composed=0.0),
            "no cuts, no recombination": levered(augment=dict.fromkeys(RECOMBINED, 0.0)),
            "no composed ink, no recombination": levered(**plain),
            "no warps": levered(view=asdict(ViewConfig().still())),
            "no point loss": levered(point_weight=0.0),
            "no guide loss": levered(guide_weight=0.0),
            "no input noise": levered(input_noise=0.0),
            "averaged weights": levered(average=50),
            "AdamW": levered(optim={"muon": False, "lr": 1e-3}),
        },
    }


GRID = grid()
ARMS = {arm: chain for arms in GRID.values() for arm, chain in arms.items()}


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: an arm by a seed, at a share of the labels."""

    arm: str
    seed: int = 0
    labels: float = 1.0

    def __str__(self) -> str:
        return f"{self.arm}, seed {self.seed}, {self.labels:.0%} of labels"


def changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """A configuration with some fields changed; a mapping changes a part of it. TypeError for an unknown field."""
    return replace(config, **{name: changed(getattr(config, name), value) if isinstance(value, Mapping) else value
                              for name, value in changes.items()})


def configs(cell: Cell, chain: Chain, profile: str = PROFILE, dataset: str = "crohme",
            preset: Mapping[str, Mapping[str, Any]] = {}) -> dict[str, Any]:
    """The configuration of each stage of an arm's chain; what a stage starts from is known once the one before is trained.

    preset: changes to the profile's presets, for all arms alike.
    """
    found = {}
    for name, stage in STAGES.items():
        if name in chain:
            own = {"labels": cell.labels, "init": "none"} if name == "finetune" else {}
            common = stage.Config.preset(profile, dataset=dataset, seed=cell.seed, **own)
            found[name] = changed(changed(common, preset.get(name, {})), chain[name])
    return found


def train(cell: Cell, chain: Chain, profile: str = PROFILE, dataset: str = "crohme",
          preset: Mapping[str, Mapping[str, Any]] = {}, progress: bool = True,
          max_minutes: Callable[[], float | None] = lambda: None) -> dict[str, Run]:
    """Train an arm's chain, or find it trained; the run of each of its stages. Arguments as for `configs`.

    Raises Paused when `max_minutes()` are over; the same call goes on.
    """
    done: dict[str, Run] = {}
    for name, config in configs(cell, chain, profile, dataset, preset).items():
        last = next(reversed(done.values()), None)
        if last:
            config = replace(config, init=last.name)
        try:
            done[name] = STAGES[name].run(config, profile, max_minutes(), progress=progress)
        except FileNotFoundError:
            if last is None or last.weights.is_file():
                raise
            print(f"{last.name} came without its weights: training it again")  # `initial_run` finds them there
            with elsewhere("MMLIB_RESULTS", results_root() / "retrained"):
                train(cell, {stage: chain[stage] for stage in done}, profile, dataset, preset, progress, max_minutes)
            done[name] = STAGES[name].run(config, profile, max_minutes(), progress=progress)
    return done


def cells(names: Sequence[str] = (), seeds: Sequence[int] = (0,), labels: Sequence[float] = (1.0,)) -> list[Cell]:
    """The cells of these arms, or of all arms of these factors, seed by seed; what is trained on synthetic ink uses no label, so
    has one cell a seed. RunError for an unknown name."""
    known = {**{arm: [arm] for arm in ARMS}, **{factor: list(arms) for factor, arms in GRID.items()}}
    if unknown := [name for name in names if name not in known]:
        raise RunError(f"the grid has no {unknown[0]!r}; factors: {'; '.join(GRID)}. Arms: {'; '.join(ARMS)}")
    arms = dict.fromkeys(arm for name in names or GRID for arm in known[name])
    return list(dict.fromkeys(Cell(arm, seed, 0.0 if arm == SYNTHETIC else share)
                              for share in labels for seed in seeds for arm in arms))


def ablate(cells: Sequence[Cell], dataset: str = "crohme", profile: str = PROFILE, split: str = "valid",
           max_minutes: float | None = None) -> None:
    """Train, probe and read each cell that has no record yet, saying what is done and how long the rest will take.

    Raises Paused when the minutes are over; the same call goes on. An arm that failed stops the grid: nothing is passed over.
    """
    began = time.monotonic()

    def left() -> float | None:
        return None if max_minutes is None else max(0.0, max_minutes - (time.monotonic() - began) / 60)

    done = recorded(dataset, profile, split)
    todo = [cell for cell in cells if cell not in done]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} of them done")
    for number, cell in enumerate(todo):
        since = time.monotonic()
        chain = train(cell, ARMS[cell.arm], profile, dataset, max_minutes=left)
        label_free = [run for stage, run in chain.items() if stage != "finetune" and run.weights.is_file()]
        if label_free:  # what the encoder knew before any label; found done where another share of the labels had it
            probe(label_free[-1], dataset, arm=cell.arm)
        hidden = [(share, removal) for share in OCCLUSION for removal in (False, True)] if cell.arm in GRID[MASKED] else []
        for share, removal in [*hidden, (0.0, False)]:  # what marks the cell as done comes last
            score = evaluate(chain["finetune"].folder, dataset, split, beam=1, arm=cell.arm, profile=profile, occlusion=share,
                             removal=removal)
        spent, rest = (time.monotonic() - since) / 60, len(todo) - number - 1
        print(f"{cell}: TER {score.ter:.3f}, ExpRate {score.exprate:.1%}, n = {score.n}; {spent:.1f} minutes now, "
              f"{training_cost(chain['finetune'])[1]:.1f} in all; {rest} to go, {rest * spent:.0f} minutes at this rate",
              flush=True)


def recorded(dataset: str = "crohme", profile: str = PROFILE, split: str = "valid") -> set[Cell]:
    """The cells that have their record."""
    wanted = {"profile": profile, "dataset": dataset, "split": split, "metric": "ter", "occlusion": "0", "stage": "evaluate"}
    return {Cell(row["arm"], int(row["seed"]), 0.0 if row["arm"] == SYNTHETIC else float(row["labels"]))
            for row in records.rows() if wanted.items() <= row.items()}


def plan(cells: Sequence[Cell], dataset: str = "crohme", profile: str = PROFILE) -> str:
    """What is done and what is to do, with the minutes of the kept runs as the measure of those to come."""
    speed: dict[str, float] = {}  # minutes a picture, where there is a run that says it
    for name in STAGES:
        kept = [run for run in find_runs(name, profile) if run.config["dataset"] == dataset]
        seen = sum(run.summary["pictures"] * views_of(name, run.config) for run in kept)
        if seen:
            speed[name] = sum(run.environment["minutes"] for run in kept) / seen
    lines, known, total, done = [], set(), 0.0, recorded(dataset, profile)
    for cell in sorted(cells, key=lambda cell: cell not in done):
        pictures: dict[str, int] = {}
        chain = ""  # of the configurations so far: what two arms have in common is counted once
        for name, config in configs(cell, ARMS[cell.arm], profile, dataset).items():
            chain += str(config)
            if chain not in known:
                known.add(chain)
                pictures[name] = config.pictures * views_of(name, vars(config))
        if cell in done:
            lines.append(f"done   {cell}")
            continue
        minutes = sum(speed[name] * n for name, n in pictures.items()) if pictures.keys() <= speed.keys() else None
        total += minutes or 0.0
        cost = ", ".join(f"{name} {n:,}" for name, n in pictures.items())
        lines.append(f"to do  {cell}: {cost} pictures" + ("" if minutes is None else f", about {minutes:.0f} minutes"))
    rest = f"about {total:.0f} minutes to go" if total else "how long it takes is not known: no run of this profile is kept yet"
    return "\n".join([*lines, "nothing to do" if done.issuperset(cells) else rest])
