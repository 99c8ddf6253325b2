"""Fixtures: a hand-written InkML file, small packs of it, and the real data where it is found."""

from __future__ import annotations

import contextlib
import os
import shutil

import hypothesis
import numpy as np
import pytest
import torch

from mmlib.data import corpus as corpora
from mmlib.data.augment import AugmentConfig, Augmenter
from mmlib.data.pack import Pack, normalised, write_pack
from mmlib.data.sample import collate
from mmlib.formula.ink import Ink, Symbol
from mmlib.formula.latex import canonical
from mmlib.store.files import data_root, project_root

# A busy machine is no fault, and half of the usual examples cost half of the time.
hypothesis.settings.register_profile("here", deadline=None, max_examples=50)
hypothesis.settings.load_profile("here")

INKML = """<ink xmlns="http://www.w3.org/2003/InkML">
<traceFormat><channel name="X" type="decimal"/><channel name="Y" type="decimal"/></traceFormat>
<annotation type="writer">w1</annotation>
<annotation type="truth">$x^2 + 1$</annotation>
<annotationXML type="truth" encoding="Content-MathML">
 <math xmlns="http://www.w3.org/1998/Math/MathML"><mrow>
  <msup><mi xml:id="0:1:">x</mi><mn xml:id="2_1">2</mn></msup>
  <mrow><mo xml:id="+_1">+</mo><mn xml:id="1_1">1</mn></mrow>
 </mrow></math>
</annotationXML>
<trace id="a">0 20, 5 25, 5 25, 10 30</trace>
<trace id="b">10 20, 0 30</trace>
<trace id="c">12 12, 16 12, 12 18, 16 18</trace>
<trace id="d">20 25, 30 25</trace>
<trace id="e">25 20, 25 30</trace>
<trace id="f">36 20, 36 30</trace>
<traceGroup xml:id="g"><annotation type="truth">Segmentation</annotation>
 <traceGroup xml:id="g1"><annotation type="truth">x</annotation>
  <traceView traceDataRef="a"/><traceView traceDataRef="b"/>
  <annotationXML href="0:1:"/></traceGroup>
 <traceGroup xml:id="g2"><annotation type="truth">2</annotation>
  <traceView traceDataRef="c"/><annotationXML href="2_1"/></traceGroup>
 <traceGroup xml:id="g3"><annotation type="truth">+</annotation>
  <traceView traceDataRef="d"/><traceView traceDataRef="e"/><annotationXML href="+_1"/></traceGroup>
 <traceGroup xml:id="g4"><annotation type="truth">1</annotation>
  <traceView traceDataRef="f"/><annotationXML href="1_1"/></traceGroup>
</traceGroup>
</ink>
"""


def pytest_collection_modifyitems(items):
    """The longest file first: of two processes one takes it, and the other the rest."""
    items.sort(key=lambda item: "tests/notebooks/" not in item.nodeid)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A context of a tiny embedded data set, packed in a cache of its own, and one thread; gives
    the patch that it undoes.
    """

    @contextlib.contextmanager
    def small(train: int, test: int):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MMLIB_CACHE", str(tmp_path_factory.mktemp("packs")))
            patch.setattr(corpora, "SYNTHETIC", {"train": (train, 1), "test": (test, 2)})
            yield patch
        torch.set_num_threads(threads)

    return small


@pytest.fixture(scope="module")
def corpus(small_data, tmp_path_factory):
    """A tiny embedded corpus; for its module, results go to a folder of their own."""
    with small_data(120, 30) as patch:
        patch.setenv("MMLIB_RESULTS", str(tmp_path_factory.mktemp("results")))
        yield corpora.load_corpus("synthetic")


@pytest.fixture
def batch(corpus):
    """Five expressions, some with fractions and scripts."""
    augmenter = Augmenter(corpus.pack, corpus.train, AugmentConfig(), corpus.vocabulary)
    nested = [i for i in corpus.train if {r"\frac", "^"} & set(corpus.pack.tokens(i))][:4]
    return collate([augmenter.draw(int(i), np.random.default_rng(0))
                    for i in (corpus.train[0], *nested)])


@pytest.fixture
def inkml() -> str:
    """x^2+1 in CROHME's InkML: six strokes, four symbols, ids that are no XML names."""
    return INKML


@pytest.fixture(scope="session")
def crohme_root():
    """The folder of CROHME's archives; skips where `$MMLIB_DATA/crohme` is not there."""
    root = data_root() / "crohme"
    if not (root / "train_2014.inkml.tar.xz").exists():
        pytest.skip(f"CROHME is not in {root}: set MMLIB_DATA to the folder that holds crohme/")
    return root


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
    """An empty cache of packs for this test alone."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "packs"))
    return tmp_path / "packs"


@pytest.fixture(scope="session")
def make_ink():
    """A function that gives ink of random strokes, one for each symbol of a label."""

    def make(latex: str, key: str, writer: str | None = "w", source: str = "s",
             seed: int = 0) -> Ink:
        rng = np.random.default_rng(seed)
        tokens = tuple(canonical(latex))
        written = [t for t in tokens if t not in ("^", "_", "{", "}", "[", "]")]
        strokes = [rng.uniform(0, 30, (rng.integers(2, 12), 2)) + (40 * i, 0)
                   for i in range(len(written))]
        symbols = tuple(Symbol(t, (i,)) for i, t in enumerate(written))
        place = iter(range(len(written)))
        links = tuple(next(place) if t in written else -1 for t in tokens)
        labels = {"latex": latex, "tokens": tokens, "token_symbols": links}
        return Ink.from_strokes(strokes, symbols=symbols, writer=writer, source=source, id=key,
                                **labels)

    return make


@pytest.fixture
def make_pack(tmp_path):
    """A function that packs inks and opens the pack."""

    def make(inks: list[Ink], name: str = "toy") -> Pack:
        path = tmp_path / f"{name}.safetensors"
        write_pack([normalised(i) for i in inks], path)
        return Pack.open(path)

    return make


@pytest.fixture(scope="module")
def copied_results(tmp_path_factory) -> dict[str, str]:
    """An environment whose results are a copy of the committed ones, as in a fresh clone, and whose
    figures go beside.
    """
    folder = tmp_path_factory.mktemp("copied")
    not_committed = ("executed", "packs", "runs", "retrained")
    shutil.copytree(project_root() / "results", folder / "results",
                    ignore=shutil.ignore_patterns(*not_committed))
    return os.environ | {"MMLIB_RESULTS": str(folder / "results"),
                         "MMLIB_FIGURES": str(folder / "figures"),
                         "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
