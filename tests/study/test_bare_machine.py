"""The paper profile on a machine that has a GPU's packages alone: no other can be imported."""

import os
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmlib.formula.vocabulary import Vocabulary
from mmlib.models.recogniser import Recogniser
from mmlib.study import records, results
from mmlib.study.publish import LARGEST
from mmlib.train.profiles import LARGE

BARE = ("torch", "torchvision", "numpy", "accelerate", "safetensors")


def needed(names):
    """These distributions and all that they need, as pip would install them."""
    found, pending = set(), list(names)
    while pending:
        name = canonicalize_name(pending.pop())
        if name not in found:
            found.add(name)
            asked = map(Requirement, requires(name) or ())
            pending += [r.name for r in asked if r.marker is None
                        or r.marker.evaluate({"extra": ""})]
    return found


def test_the_model_is_as_large_as_the_fields_and_can_ship():
    parameters = sum(p.numel() for p in Recogniser(len(Vocabulary.crohme()), LARGE).parameters())
    assert 6e6 < parameters < LARGEST / 2


SMALL = """
import sys
from dataclasses import replace
from mmlib.data import corpus
corpus.SYNTHETIC = {'train': (80, 1), 'test': (6, 2)}
corpus.Corpus.composed.__defaults__ = corpus.Corpus.composed_name.__defaults__ = (40,)
from mmlib.train.profiles import PROFILES, TINY, Profile
few = {'pictures': 6, 'eval_pictures': 6, 'eval_most': 2, 'batch_area': 60.0,
       'batch_most': 3}
paper = PROFILES['paper']
PROFILES['paper'] = Profile(
    replace(paper.pretrain, **few, encoder=TINY.encoder),
    replace(paper.attend, **few, encoder=TINY.encoder, maps=TINY.maps),
    replace(paper.finetune, **few, model=TINY))
from mmlib.study.arms import COMPARED
from mmlib.study.conduct import cells, conduct, packs
from mmlib.train.loop import Paused
if sys.argv[1] == 'prepare':
    print(len(packs('synthetic')), 'packs')
else:
    try:
        conduct(cells(COMPARED), 'synthetic', 'paper', True, float(sys.argv[2]))
        print('all is done')
    except Paused as pause:
        print('paused:', pause)
"""


@pytest.mark.slow
def test_the_grid_runs_on_a_bare_machine(tmp_path, monkeypatch):
    """Packs are made here; then all is trained and read, with a pause, where no other package can
    be imported.
    """
    (tmp_path / "full.py").write_text(SMALL)
    kept = needed(BARE) | {"mmlib", "setuptools"}
    other = sorted(top for top, owners in packages_distributions().items() if top.isidentifier()
                   and not {canonicalize_name(owner) for owner in owners} & kept)
    assert {"pandas", "scipy", "lxml", "skimage", "matplotlib", "HersheyFonts"} <= set(other)
    (tmp_path / "bare.py").write_text(
        f"import sys\nfor name in {other}:\n    sys.modules[name] = None\n{SMALL}"
    )
    environment = os.environ | {"MMLIB_CACHE": str(tmp_path / "packs"),
                                "MMLIB_RESULTS": str(tmp_path / "there")}

    def call(script, *options):
        done = subprocess.run([sys.executable, tmp_path / script, *options], env=environment,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4_000:]
        return done.stdout

    assert "3 packs" in call("full.py", "prepare")
    assert "paused" in call("bare.py", "train", "0.02")
    said = call("bare.py", "train", "60")
    assert "all is done" in said
    assert said.count("TER") == 3
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "here"))  # and home
    names = results.collect(tmp_path / "there")
    assert sorted(name.split("-")[0]
                  for name in names) == ["attend", *["evaluate"] * 6, *["finetune"] * 3, "pretrain"]
    assert {(row["arm"], row["split"]) for row in records.rows()} == {
        (arm, split)
        for arm in ("mask-match", "supervised", "supervised-total")
        for split in ("valid", "test")
    }
    assert results.collect(tmp_path / "there") == []
