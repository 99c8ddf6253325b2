"""Occlusion in evaluation: the same ink is masked whatever reads it, as much as asked for, marked
or not.
"""

import numpy as np
import pytest
import torch
from helpers import find_runs

from mmlib.cli import main
from mmlib.data.corpus import synthetic_pack
from mmlib.data.errors import DataError
from mmlib.data.sample import collate, from_pack
from mmlib.draw.views import ViewConfig, make_view
from mmlib.formula.vocabulary import Vocabulary
from mmlib.models.recogniser import Recogniser
from mmlib.read import batch
from mmlib.read.batch import read_samples
from mmlib.read.reader import Reader
from mmlib.store.run import Run, run_hash
from mmlib.study import evaluate as module
from mmlib.study import records, results
from mmlib.study.conduct import Cell, recorded_cells
from mmlib.study.evaluate import Config, evaluate, occluded
from mmlib.train.profiles import TINY

VOCABULARY = Vocabulary.crohme()


@pytest.fixture(scope="module", autouse=True)
def small(small_data):
    with small_data(40, 12):
        yield


@pytest.fixture(scope="module")
def pack(small):
    return synthetic_pack("test")


@pytest.fixture
def shown(pack):
    """A function that gives the pictures of some expressions as a reader of a given size sees them,
    and the views.
    """

    def show(which, share, symbol=14.0, removal=False, ids=pack.ids):
        ink = collate([from_pack(pack, i) for i in which]).ink
        view = make_view(ink, ViewConfig(symbol=symbol).still(), torch.Generator())
        return occluded(view, ink, [ids[i] for i in which], share, symbol, removal), view, ink

    return show


def masked_points(picture, view, ink):
    """(n,) bool: points whose pixel is under a mask."""
    column, row = view.points.long().unbind(1)
    return picture[ink.owner, 1, row, column] > 0


def test_the_same_ink_is_masked_whatever_reads_it(shown, pack):
    whole = range(len(pack))
    points = masked_points(*shown(whole, 0.3))
    assert 0.2 < points.float().mean() < 0.5
    # Another size of the view: but for points within a pixel of a mask's edge.
    assert (points == masked_points(*shown(whole, 0.3, symbol=28.0))).float().mean() > 0.93
    # Another batch and order: bit for bit.
    some = [7, 2, 9]
    apart, _, _ = shown(some, 0.3)
    for place, i in enumerate(some):
        alone, _, _ = shown([i], 0.3)
        height, width = alone.shape[2:]
        assert torch.equal(apart[place, :, :height, :width], alone[0])


def test_the_id_alone_says_where_masks_lie(shown):
    assert not torch.equal(masked_points(*shown([3], 0.3, ids="abcd")),
                           masked_points(*shown([3], 0.3, ids="abce")))


def test_as_much_is_masked_as_asked_for_and_what_is_masked_stays_masked(shown, pack):
    earlier = torch.zeros(1)
    for share in (0.1, 0.2, 0.3, 0.6):
        picture, view, _ = shown(range(len(pack)), share)
        kept = picture[:, 0].sum((1, 2)) / view.picture[:, 0].sum((1, 2))
        # whole pixels and the pen's width are masked a little more
        assert (1 - kept).mean() == pytest.approx(share, abs=0.07)
        mask = picture[:, 1]
        assert (mask >= earlier).all()
        earlier = mask


def test_a_removal_is_the_same_picture_without_the_mark(shown, pack):
    marked, view, _ = shown(range(len(pack)), 0.2)
    removed, _, _ = shown(range(len(pack)), 0.2, removal=True)
    assert removed.shape == view.picture.shape
    assert torch.equal(removed, marked[:, :1])
    assert torch.equal(marked[:, :1], view.picture * (1 - marked[:, 1:]))


def test_what_is_masked_is_another_run():
    assert len({run_hash("evaluate", Config(occlusion=o, removal=r), {}, "1") for o, r in
                ((0.0, False), (0.1, False), (0.1, True), (0.2, False))}) == 4


def test_a_picture_may_be_masked_from_a_reader(pack):
    torch.manual_seed(0)
    model = Recogniser(len(VOCABULARY), TINY).eval()
    samples, seen = [from_pack(pack, i) for i in range(5)], []

    def blank(view, ink, indices, symbol):
        seen.extend(indices)
        return torch.zeros_like(view.picture)

    found = read_samples(model, samples, VOCABULARY, ViewConfig(), 1, longest=3, area=60.0,
                         mask=blank)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    plain = read_samples(model, samples, VOCABULARY, ViewConfig(), 1, longest=3, area=60.0)
    untouched = read_samples(model, samples, VOCABULARY, ViewConfig(), 1, longest=3, area=60.0,
                             mask=lambda view, ink, indices, symbol: view.picture)
    assert [h[0].score for h in untouched] == [h[0].score for h in plain]
    assert [h[0].score for h in found] != [h[0].score for h in plain]


@pytest.fixture
def recogniser(tmp_path, monkeypatch):
    """The weights of an untrained recogniser, in results of their own."""
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    torch.manual_seed(0)
    run = Run.open("finetune", "smoke", {"seed": 4, "init": "none", "dataset": "synthetic"}, {})
    config = {"seed": 4, "labels": 0.5, "model": module.asdict(TINY),
              "view": module.asdict(ViewConfig(symbol=8.0))}
    with run.lock():
        run.save_weights(Recogniser(len(VOCABULARY), TINY).state_dict(),
                         {"config": config, "vocabulary": list(VOCABULARY.tokens), "run": run.name,
                          "pictures": 9, "minutes": 0.5})
        run.finish(pictures=9)
    assert Reader.load(run.folder).config["labels"] == 0.5
    return run


def test_occlusion_from_the_command_line_has_its_records(recogniser, monkeypatch, capsys):
    read, quick = [], read_samples

    def reading(model, samples, *arguments, mask=None, **options):
        if mask:
            ink = collate(samples).ink
            view = make_view(ink, ViewConfig(symbol=8.0).still(), torch.Generator())
            read.append(mask(view, ink, np.arange(len(samples)), 8.0))
        return quick(model, samples[:1], *arguments, longest=2, **options) * len(samples)

    monkeypatch.setattr(batch, "read_samples", reading)
    command = ["evaluate", str(recogniser.folder), "--profile", "smoke", "--beam", "1", "--arm",
               "untrained"]
    for more in ([], ["--occlusion", "0.2"], ["--occlusion", "0.2", "--removal"]):
        assert main([*command, *more]) == 0
    assert [picture.shape[1] for picture in read] == [2, 1]
    assert torch.equal(read[0][:, :1], read[1])
    frame = records.load()
    assert frame.groupby("run").ngroups == len(find_runs("evaluate")) == 3
    wanted = {(0.0, "ter"), (0.2, "ter"), (0.2, "ter:removed"), (0.2, "hallucination"),
              (0.2, "hallucination:removed")}
    assert wanted <= set(zip(frame.occlusion, frame.metric))
    assert len(frame) == 3 * len(module.METRICS)
    assert main([*command, "--removal"]) == 2
    assert "a share to mask is above 0 and below 1" in capsys.readouterr().err


def test_scoring_again_leaves_what_is_recorded(recogniser, monkeypatch):
    command = ["evaluate", str(recogniser.folder), "--profile", "smoke", "--beam", "1"]
    quick = read_samples
    monkeypatch.setattr(batch, "read_samples", lambda model, samples, *a, mask=None, **k:
                        quick(model, samples[:1], *a, longest=2, **k) * len(samples))
    assert main([*command, "--arm", "untrained"]) == 0
    (run,) = find_runs("evaluate")
    kept = {path.name: path.read_bytes() for path in run.folder.iterdir()
            if path.suffix in (".json", ".csv")}
    assert main(command) == 0
    assert {name: (run.folder / name).read_bytes() for name in kept} == kept
    assert find_runs("evaluate")[0].summary["arm"] == "untrained"


def test_what_was_read_joins_the_tables(recogniser, monkeypatch):
    monkeypatch.setattr(batch, "read_samples", lambda model, samples, *_,
                        **__: [[]] * len(samples))
    score = evaluate(recogniser.folder, Config(beam=1, occlusion=0.1), arm="untrained",
                     profile="smoke")
    evaluate(recogniser.folder, Config(beam=1), profile="smoke")  # without an arm: in no table
    (name, *more), rows = results.outcomes("test", "synthetic"), results.run_rows()
    assert not more
    assert set(rows) == {name, recogniser.name}
    assert {row["arm"] for row in rows.values()} == {"untrained"}
    assert results.outcomes("test", "synthetic")[name].summary() == score
    assert len(results.traits("test", "synthetic")) == score.n
    assert set(next(iter(results.traits("test", "synthetic").values()))) == {"depth", "seen"}
    assert recorded_cells("synthetic", "smoke",
                          "test") == set(), "what is read with a mask is no reading of the split"
    evaluate(recogniser.folder, Config(beam=1), arm="untrained", profile="smoke")
    assert recorded_cells("synthetic", "smoke", "test") == {Cell("untrained", 4, 0.5)}


@pytest.mark.parametrize("wrong", [{"occlusion": -0.1}, {"occlusion": 1.0}, {"removal": True}])
def test_a_share_out_of_range_is_refused(wrong):
    with pytest.raises(DataError, match="occlusion is"):
        evaluate(None, Config(**wrong))
