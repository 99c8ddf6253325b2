"""A corpus: the pack that a stage trains on, its split, and what is composed from its symbols."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmlib.data.errors import DataError
from mmlib.data.omniglot import HELD_OUT, letters
from mmlib.data.pack import Indices, Pack, PackError, normalised, opened_or_made, write_pack
from mmlib.data.pictured import pictured
from mmlib.data.prepare import load_own, load_pack
from mmlib.data.sample import from_pack
from mmlib.data.split import hold_out, split
from mmlib.draw.views import ViewConfig
from mmlib.formula.ink import Ink
from mmlib.formula.vocabulary import BEYOND, Vocabulary
from mmlib.store.files import cache_root
from mmlib.synthetic.compose import synthetic_ink
from mmlib.synthetic.glyphs import Banks, Collected
from mmlib.synthetic.hershey import HersheyBank
from mmlib.synthetic.ink_bank import InkBank

SYNTHETIC = {"train": (3_000, 1), "test": (300, 2)}  # expressions and seed of each embedded part
COMPOSED = 24_000  # expressions composed from a corpus's own symbols: three for each real one
GENERATOR = "2"  # changes when grammar, layout or glyphs change what is generated
BEYOND_COUNT = 12_000  # expressions with symbols beyond CROHME's
GENERATOR_BEYOND = "1"  # likewise for these
PICTURED = "1"  # changes when drawing, cleaning or tracing change what is traced


@dataclass(frozen=True, eq=False)
class Corpus:
    """A pack with its split: `train` and `valid` are indices into it."""

    name: str
    pack: Pack
    train: np.ndarray
    valid: np.ndarray
    vocabulary: Vocabulary

    @property
    def identity(self) -> str:
        """Names the exact data in a run's hash."""
        split = f"{_digest(self.train)}-{_digest(self.valid)}"
        return f"{self.name}-{self.pack.digest[:12]}-{split}"

    def view(self, config: ViewConfig) -> ViewConfig:
        """How this ink may be warped: pieces of a traced line move together."""
        return replace(config, stroke_shift=0.0, stroke_scale=0.0) if self.pack.traced else config

    def validation_subset(self, most: int) -> np.ndarray:
        """At most `most` validation expressions, always the same random choice, for the curves."""
        return np.sort(np.random.default_rng(3).permutation(self.valid)[:most])

    def held_formulas(self) -> frozenset[tuple[int, ...]]:
        """Token ids of validation formulas that no cut or recombination may show in training.

        Formulas of one token are not among them, nor those that training has anyway (in one's own
        data, where it cannot be otherwise).
        """
        trained = {self.pack.tokens(int(i)) for i in self.train}
        held = [int(i) for i in self.valid if self.pack.tokens(int(i)) not in trained]
        found = (tuple(from_pack(self.pack, i).tokens.tolist()) for i in held)
        return frozenset(tokens for tokens in found if len(tokens) > 1)

    def composed_name(self, indices: Indices, count: int = COMPOSED) -> str:
        """What names the pack that `composed` gives, in the cache and in a run's hash."""
        return f"composed{GENERATOR}-{self.pack.digest[:8]}-{_digest(indices)}-{count}"

    def composed(self, indices: Indices, count: int = COMPOSED) -> Pack:
        """A pack of synthetic formulas, written with the symbols of these expressions alone."""
        return cached_pack(self.composed_name(indices, count), lambda: synthetic_ink(
            count, 0, InkBank(self.pack[int(i)] for i in indices)))

    def beyond_name(self, indices: Indices, count: int = BEYOND_COUNT, held: bool = False) -> str:
        """Likewise for `beyond`."""
        made_of = f"{self.pack.digest[:8]}-{_digest(indices)}-{'held' if held else 'hands'}"
        return f"beyond{GENERATOR_BEYOND}-{made_of}-{count}"

    def beyond(self, indices: Indices, count: int = BEYOND_COUNT, held: bool = False) -> Pack:
        """A pack of synthetic formulas that each hold a symbol beyond CROHME's.

        These expressions' hands write what they wrote, Omniglot's some letters, and fonts of pen
        strokes the rest. With `held`, by hands and fonts that training does not see.
        """

        def make() -> Sequence[Ink]:
            hands = HELD_OUT if held else range(HELD_OUT.start)
            own = InkBank(self.pack[int(i)] for i in indices)
            banks = own, Collected(letters(hands)), HersheyBank(seed=int(held))
            return synthetic_ink(count, int(held), Banks(*banks), beyond=True)

        return cached_pack(self.beyond_name(indices, count, held), make,
                           vocabulary=self.vocabulary.plus(BEYOND))

    def pictured_name(self, pack: Pack, indices: Indices) -> str:
        """Likewise for `pictured`."""
        return f"pictured{PICTURED}-{pack.digest[:8]}-{_digest(indices)}"

    def pictured(self, pack: Pack, indices: Indices) -> Pack:
        """A pack of a pack's expressions as traced from a picture of each (some 25 per second)."""
        return cached_pack(self.pictured_name(pack, indices), lambda: pictured(pack, indices), 1.0,
                           Vocabulary(pack.vocabulary[len(Vocabulary.SPECIALS) :]))


def _digest(indices: Indices) -> str:
    content = np.ascontiguousarray(indices, dtype=np.int64).tobytes()
    return hashlib.sha256(content).hexdigest()[:8]


def cached_pack(name: str, make: Callable[[], Iterable[Ink]], size: float | None = None,
                vocabulary: Vocabulary | None = None) -> Pack:
    """The pack of this name in the cache, made where it is missing or damaged.

    size: the typical size of the inks, if it is known. vocabulary: see `write_pack`.
    """
    path = cache_root() / f"{name}.safetensors"
    return opened_or_made(path, lambda: write_pack(
        (normalised(ink, size) for ink in make()), path, vocabulary=vocabulary))


def synthetic_pack(part: str) -> Pack:
    """The embedded data set: 'train' or 'test', synthetic ink in Hershey strokes."""
    if part not in SYNTHETIC:
        raise DataError(f"there is no synthetic part {part!r}; choose from {sorted(SYNTHETIC)}")
    count, seed = SYNTHETIC[part]
    name = f"synthetic{GENERATOR}_{part}-{count}-{seed}"
    return cached_pack(name, lambda: synthetic_ink(count, seed))


def resolved(dataset: str) -> str:
    """The name itself; for 'auto', 'crohme' where its training set is there, else 'synthetic'."""
    if dataset != "auto":
        return dataset
    try:
        load_pack("train_2014")
    except (DataError, PackError):
        return "synthetic"
    return "crohme"


def load_corpus(dataset: str = "auto") -> Corpus:
    """The training corpus of a data set.

    dataset: 'crohme', 'synthetic', 'auto' (CROHME where it is found), or the path of one's own. The
    split has its own fixed seed: what is held out never varies. Raises DataError for another name.
    """
    dataset = resolved(dataset)
    if dataset == "crohme":
        pack = load_pack("train_2014")
    elif dataset == "synthetic":
        pack = synthetic_pack("train")
    elif (path := Path(dataset)).exists():
        pack = load_own(path)
        # The tokens of one's own labels come behind CROHME's.
        vocabulary = Vocabulary(pack.vocabulary[len(Vocabulary.SPECIALS) :])
        return Corpus(path.resolve().name, pack, *hold_out(pack, *split(pack)), vocabulary)
    else:
        raise DataError(f"there is no data set {dataset!r}; choose 'crohme', 'synthetic' or "
                        "'auto', or give a folder or archive")
    return Corpus(dataset, pack, *split(pack), Vocabulary.crohme())
