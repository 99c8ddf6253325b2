"""One's own data: folders and archives, with and without labels, as a corpus that all
stages take.
"""

import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mmlib.data.corpus import load_corpus, synthetic_pack
from mmlib.data.errors import DataError
from mmlib.data.prepare import load_own
from mmlib.data.split import hold_out
from mmlib.draw.views import ViewConfig
from mmlib.formula.inkml import write_inkml
from mmlib.models.recogniser import Recogniser
from mmlib.read.batch import best_tokens, read_pack
from mmlib.read.reader import Reader
from mmlib.show.ink import drawing
from mmlib.store.files import digest
from mmlib.train import attend, finetune, pretrain
from mmlib.train.cost import training_cost
from mmlib.train.profiles import TINY, preset


@pytest.fixture
def folder(tmp_path, cache_dir):
    """Sixteen synthetic formulas as pictures with captions, a token among them that CROHME does not
    have.
    """
    pack, path = synthetic_pack("test"), tmp_path / "mine"
    (path / "img").mkdir(parents=True)
    chosen = [i for i in range(len(pack)) if 3 <= len(pack.tokens(i)) <= 12][:16]
    lines = []
    for k, i in enumerate(chosen):
        Image.fromarray(255 - drawing(pack[i])).save(path / "img" / f"{i}.png")
        label = r"\hbar" if k == 3 else " ".join(pack.tokens(i))
        lines.append(f"{i}\t{label}")
    (path / "caption.txt").write_text("\n".join(lines) + "\n")
    return path


def test_pictures_become_ink_of_their_size(folder):
    corpus = load_corpus(str(folder))
    assert corpus.name == "mine"
    assert corpus.pack.traced
    assert corpus.view(ViewConfig()) == replace(ViewConfig(), stroke_shift=0.0, stroke_scale=0.0)
    assert len(corpus.pack) == 16
    assert set(corpus.train) | set(corpus.valid) <= set(range(16))
    assert not set(corpus.train) & set(corpus.valid)
    assert len(corpus.valid)
    original = synthetic_pack("test")
    place = {key: i for i, key in enumerate(map(str, range(len(original))))}
    ratios = [
        corpus.pack[k].bounds()[2] / np.ptp(original[place[key.removesuffix(".png")]].points[:, 0])
        for k, key in enumerate(corpus.pack.ids)
    ]
    assert 0.7 < np.median(ratios) < 1.4


def test_the_pack_is_kept_until_a_file_changes(folder, capsys):
    assert load_own(folder).path == load_own(folder).path
    assert capsys.readouterr().out.count("16 listed") == 1
    captions = (folder / "caption.txt").read_text().splitlines()
    (folder / "caption.txt").write_text("\n".join(captions[:12]) + "\n")
    assert len(load_own(folder)) == 12


def test_an_archive_is_the_same_as_its_folder(folder, tmp_path):
    with tarfile.open(tmp_path / "mine.tar.gz", "w:gz") as archive:
        archive.add(folder, "mine")
    assert load_own(tmp_path / "mine.tar.gz").ids == load_own(folder).ids


def test_inkml_stays_ink(tmp_path, cache_dir):
    pack, path = synthetic_pack("test"), tmp_path / "tablet"
    path.mkdir()
    for i in range(12):
        write_inkml(pack[i], path / f"{i}.inkml")
    corpus = load_corpus(str(path))
    assert not corpus.pack.traced
    own = corpus.pack
    assert own.flat.symbol_offsets[-1] == sum(len(pack[i].symbols) for i in range(12))
    assert sorted(own.tokens(i) for i in range(12)) == sorted(pack.tokens(i) for i in range(12))


def test_what_cannot_be_read_is_named(tmp_path, cache_dir):
    with pytest.raises(DataError, match="no data set"):
        load_corpus(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        load_corpus(str(tmp_path / "empty"))


def test_too_few_are_refused_and_some_are_held_out(folder):
    pack, none = load_own(folder), np.zeros(0, np.int64)
    train, valid = hold_out(pack, np.arange(16), none)
    assert sorted([*train, *valid]) == list(range(16))
    assert len(valid) == 2
    split = np.arange(8), np.arange(8, 16)
    assert hold_out(pack, *split) == split
    assert len(hold_out(pack, none, np.arange(16))[1]) == 2, (
        "one writer, who is held out: nothing would be left to train on"
    )
    few = folder.parent / "few"
    few.mkdir()
    for path in sorted(folder.glob("img/*.png"))[:3]:
        (few / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="too few"):
        load_corpus(str(few))


def test_few_formulas_are_trained_on_though_they_are_held_out_too(folder):
    lines = (folder / "caption.txt").read_text().splitlines()
    names = [line.split("\t")[0] for line in lines]
    (folder / "caption.txt").write_text("".join(f"{name}\t{'x+1' if k % 2 else 'y-2'}\n"
                                                for k, name in enumerate(names)))
    corpus = load_corpus(str(folder))
    assert {corpus.pack.tokens(int(i)) for i in corpus.valid} <= {
        corpus.pack.tokens(int(i)) for i in corpus.train
    }
    assert not corpus.held_formulas()


def test_a_folder_called_as_a_data_set_is_ones_own(folder, monkeypatch):
    folder.rename(folder.parent / "test_2014")
    monkeypatch.chdir(folder.parent)
    assert len(load_own("test_2014")) == 16


def small(stage, folder, **more):
    options = {"pictures": 16, "eval_pictures": 16, "eval_most": 2, "batch_area": 200.0, **more}
    return preset(stage, "smoke", dataset=str(folder), **options)


@pytest.mark.slow
def test_every_stage_trains_on_a_folder(folder, tmp_path, monkeypatch):
    """Without labels stages 1 and 2; with them, stage 3 from stage 2, and from a recogniser whose
    readings it begins with.
    """
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "results"))
    first = pretrain.run(small(pretrain, folder), "smoke", progress=False)
    second = attend.run(small(attend, folder, init=first.name), "smoke", progress=False)
    run = finetune.run(small(finetune, folder, init=second.name, composed=1.0),
                       "smoke", progress=False)
    assert run.inputs["composed"] == "none"  # there are no symbols to compose from
    assert run.summary["expressions"] == len(load_corpus(str(folder)).train)
    mine = Reader.load(run.folder)
    assert r"\hbar" in mine.vocabulary.tokens
    shipped = tmp_path / "results" / "checkpoints" / "recogniser.safetensors"
    shipped.parent.mkdir(parents=True)
    shutil.copy(run.weights, shipped)
    next_run = finetune.run(small(finetune, folder, init="recogniser", pictures=1, seed=5),
                            "smoke", progress=False)
    assert next_run.inputs["init"] == f"recogniser-{digest(shipped)}"
    assert Reader.load(next_run.folder).pictures == next_run.summary["pictures"] + mine.pictures
    shipped.unlink()  # another one ships by now
    assert training_cost(next_run)[0] == next_run.summary["pictures"] + mine.pictures


def test_a_recogniser_is_taken_over_with_its_readings(folder):
    corpus = load_corpus(str(folder))
    words = corpus.vocabulary.tokens[len(corpus.vocabulary.SPECIALS):]
    # the same tokens under other ids
    other = type(corpus.vocabulary)([w for w in reversed(words) if w != r"\hbar"])
    reader = Reader(Recogniser(len(other), TINY).eval(), other, ViewConfig(), {}, folder, "other",
                    0, 0.0)
    model = Recogniser(len(corpus.vocabulary), TINY).eval()
    finetune.take_over(model, corpus.vocabulary, reader)
    with_new = corpus.vocabulary.encode([r"\hbar"])[0]
    model.decoder.logits.bias.data[with_new] = -1e4
    read = [best_tokens(read_pack(m, corpus.pack, [0, 1], v, ViewConfig(), beam=1, longest=6), v)
            for m, v in ((reader.model, other), (model, corpus.vocabulary))]
    assert read[0] == read[1]


def test_no_labels_are_said_so_where_they_are_needed(folder):
    (folder / "caption.txt").unlink()
    corpus = load_corpus(str(folder))
    with pytest.raises(DataError, match="no labels to fine-tune on"):
        finetune.training_indices(preset("finetune", "smoke"), corpus)
