"""Probing the frozen encoder of a finished run: rows for the records, cheap enough for every arm.

Every arm is asked alike: the same symbols, drawn plainly with fine-tuning's pen at the size that
the run's encoder was trained for. A probe is a run of its own, named by the weights, the data and
the settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sklearn.dummy import DummyClassifier

from mmlib.data.corpus import Corpus, load_corpus, resolved
from mmlib.draw.views import ViewConfig
from mmlib.measure import probes
from mmlib.models.encoder import Encoder, EncoderConfig
from mmlib.models.layers import default_device
from mmlib.store.files import from_json
from mmlib.store.run import Run
from mmlib.study import results
from mmlib.train.attend import encoder_weights
from mmlib.train.cost import training_cost

CODE_VERSION = "2"


@dataclass(frozen=True)
class Config:
    """One probe."""

    dataset: str  # whose symbols
    random: int | None = None  # random weights by this seed in place of the run's
    fitted: int = 8_000  # symbols of the training split, in whole expressions
    read: int = 5_000  # and of the validation split: on CROHME, all
    seed: int = 0  # of the choice of symbols


def load(run: Run, random: int | None = None) -> tuple[Encoder, float]:
    """The encoder of a run, or one of its shape with random weights, and its pixels per symbol."""
    values = run.config.get("model", run.config)["encoder"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random or 0)
        encoder = Encoder(from_json(EncoderConfig, values))
    if random is None:
        encoder.load_state_dict(encoder_weights(run))
    return encoder.eval().requires_grad_(False).to(default_device()), run.config["view"]["symbol"]


def measure(encoder: Encoder, symbol: float, corpus: Corpus, config: Config
            ) -> list[dict[str, Any]]:
    """Rows {metric, value, low, high, n}; n symbols or pairs.

    The class of a symbol: `symbol_linear`, `symbol_knn` and `symbol_common` (the commonest). The
    relation of a pair: `relation_linear`, and `geometry_linear` from the boxes alone. Each also
    with `…_macro`, the mean over classes. Intervals resample validation expressions.
    """
    pack, view = corpus.pack, ViewConfig(symbol=symbol)
    fit, read = (
        probes.describe(encoder, pack, probes.enough(pack, part, count, config.seed), view)
        for part, count in ((corpus.train, config.fitted), (corpus.valid, config.read))
    )
    x, y, test = fit.features, fit.label, read.features
    said = {
        "symbol_linear": probes.linear_probe(x, y, test),
        "symbol_knn": probes.knn_probe(x, y, test),
        "symbol_common": DummyClassifier().fit(x, y).predict(test),
        "relation_linear": probes.linear_probe(fit.pair_features, fit.relation, read.pair_features),
        "geometry_linear": probes.linear_probe(probes.geometry(fit.box, fit.pairs), fit.relation,
                                               probes.geometry(read.box, read.pairs)),
    }
    rows = []
    for name, answers in said.items():
        truth, expression = read.label, read.expression
        if not name.startswith("symbol"):
            truth, expression = read.relation, read.expression[read.pairs[:, 0]]
        found = probes.accuracies(truth, answers, expression)
        for end, one in zip(("", "_macro"), found, strict=True):
            numbers = {key: getattr(one, key) for key in ("value", "low", "high")}
            rows.append({"metric": name + end, **numbers, "n": len(truth)})
    return rows


def probe(run: Run, dataset: str | None = None, random: int | None = None, arm: str | None = None,
          **changes: Any) -> Run:
    """Probe the encoder of a finished run, or find that done; the probe's summary holds the rows.

    Args:
        run: of pretrain, attend or finetune.
        dataset: whose symbols; by default what the run was trained on.
        random: probe random weights by this seed instead, of the same shape.
        arm: writes records under this name: `probe_<metric>`, its `_low` and `_high`.
        changes: of other fields of `Config`.
    """
    config = Config(resolved(dataset or run.config["dataset"]), random, **changes)
    corpus = load_corpus(config.dataset)
    weights = run.environment["weights"] if random is None else "random"
    inputs = {"encoder": run.name, "weights": weights, "data": corpus.identity}
    this = Run.open("probe", run.profile, config, inputs, CODE_VERSION)
    if not this.done:
        with this.lock():
            this.finish(rows=measure(*load(run, random), corpus, config), trained=run.name)
    if arm:
        own = random is None
        pictures, minutes = _cost(run) if own else (0, 0)
        results.record(this, ({**row, "metric": f"probe_{row['metric']}"}
                              for row in this.summary["rows"]),
                       arm=arm, split="valid", labels=run.config.get("labels", 0) if own else 0,
                       seed=run.config["seed"] if own else random, pictures=pictures,
                       minutes=minutes, hardware=this.environment["hardware"],
                       commit=this.environment["commit"], utc=this.environment["utc"])
    return this


def _cost(run: Run) -> tuple[float, float]:
    """Pictures and minutes of a run; one that was trained again cost what the tables say."""
    if row := results.run_rows().get(run.name):
        return float(row["total_pictures"]), float(row["total_minutes"])
    return training_cost(run)
