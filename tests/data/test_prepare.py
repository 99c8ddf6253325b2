import json
import os
import tarfile
import time

import numpy as np
import pytest

from mmlib.data import prepare
from mmlib.data.errors import DataError
from mmlib.data.pack import Pack
from mmlib.data.split import leak, seen, split
from mmlib.formula.vocabulary import Vocabulary
from mmlib.store.files import cache_root, data_root


@pytest.fixture
def data_dir(tmp_path, monkeypatch, inkml):
    """A data root whose test_2014 has two good files, an invalid label, and two
    unreadable files.
    """
    folder = tmp_path / "data" / "crohme"
    (folder / "set").mkdir(parents=True)
    bad_label = inkml.replace("$x^2 + 1$", "x }")
    for name, text in {"a": inkml, "b": inkml, "c": bad_label, "d": "", "e": "<ink>"}.items():
        (folder / "set" / f"{name}.inkml").write_text(text)
    with tarfile.open(folder / "test_2014.inkml.tar.xz", "w:xz") as tar:
        tar.add(folder / "set", "test_2014")
    monkeypatch.setenv("MMLIB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_roots_follow_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_DATA", str(tmp_path))
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "c"))
    assert data_root() == tmp_path
    assert cache_root() == tmp_path / "c"
    monkeypatch.delenv("MMLIB_DATA")
    monkeypatch.delenv("MMLIB_CACHE")
    assert cache_root() == data_root() / "packs"


def test_report_names_what_is_wrong(data_dir, cache_dir):
    shown = []
    (report,) = prepare.prepare(["test_2014"], show=shown.append)
    assert (report["listed"], report["read"]) == (5, 3)
    assert [r.partition(":")[0] for r in report["skipped"]] == [
        "test_2014/d.inkml",
        "test_2014/e.inkml",
    ]
    assert list(report["invalid_labels"]) == ["c"]
    assert (report["writers"], report["symbols"], report["tokens"], report["aligned"]) == (
        1,
        12,
        14,
        2,
    )
    assert json.loads((cache_dir / "test_2014.report.json").read_text()) == report
    for words in ("5 listed, 3 read, 2 skipped", "d.inkml: the file is empty", "not valid: c:"):
        assert words in shown[0]
    pack = Pack.open(cache_dir / "test_2014.safetensors")
    assert pack.ids == ["a", "b", "c"]
    assert pack.flat.valid.tolist() == [True, True, False]


def test_a_long_list_of_what_was_skipped_is_cut_and_counted():
    report = {"dataset": "x", "listed": 20, "read": 0, "skipped": [f"file {i}" for i in range(20)],
              "tokens": 0, "pack_bytes": 1, "seconds": 1.0, "traced": True,
              "invalid_labels": {"a": "no"}, "no_label": ["a", "b"]}
    lines = prepare.summary(report).splitlines()
    assert lines[1:3] == ["  pictures, traced to ink", "  skipped: file 0"]
    assert lines[12:] == ["  skipped: 10 more, in the report beside the pack",
                          "  kept without tokens, its label is not valid: a: no",
                          "  2 without a label"]


def test_workers_change_nothing(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "CHUNK", 2)
    digests = []
    for workers in (1, 2):
        prepare.prepare(["test_2014"], tmp_path / str(workers), workers, show=str)
        digests.append(Pack.open(tmp_path / str(workers) / "test_2014.safetensors").digest)
    assert digests[0] == digests[1]


def test_load_pack_prepares_and_rebuilds(data_dir, cache_dir, monkeypatch):
    path = cache_dir / "test_2014.safetensors"
    assert len(prepare.load_pack("test_2014")) == 3
    first = path.stat().st_mtime_ns
    prepare.load_pack("test_2014")
    assert path.stat().st_mtime_ns == first  # taken from the cache
    path.write_bytes(b"damaged")
    assert len(prepare.load_pack("test_2014")) == 3
    monkeypatch.setattr("mmlib.data.pack.VERSION", 2)
    before = path.stat().st_ino
    prepare.load_pack("test_2014")
    assert path.stat().st_ino != before


def test_load_pack_without_the_data(data_dir, cache_dir, monkeypatch):
    with pytest.raises(DataError, match="train_2014"):
        prepare.load_pack("train_2014")
    prepare.load_pack("test_2014")
    monkeypatch.setenv("MMLIB_DATA", "nowhere")
    assert len(prepare.load_pack("test_2014")) == 3


def test_own_folders_of_ink_and_of_pictures(data_dir, cache_dir, tmp_path):
    from PIL import Image

    pictures = tmp_path / "mine"
    (pictures / "img").mkdir(parents=True)
    array = np.full((8, 8), 255, np.uint8)
    array[2:5, 3] = 0
    Image.fromarray(array).save(pictures / "img" / "p.png")
    (pictures / "caption.txt").write_text("p\t1\nq\t2\n")
    ink, picture = prepare.prepare([str(data_dir / "crohme" / "set"), str(pictures)], show=str)
    assert (ink["listed"], ink["read"]) == (5, 3)
    assert (picture["listed"], picture["read"], len(picture["skipped"])) == (2, 1, 1)
    assert prepare.load_pack(str(pictures)).traced
    assert not prepare.load_pack(str(data_dir / "crohme" / "set")).traced
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"neither \.inkml files nor readable pictures"):
        prepare.prepare([str(tmp_path / "nothing")])


@pytest.fixture(scope="module")
def all_of_crohme(crohme_root, tmp_path_factory):
    """Each archive's report and the seconds of processor time that all took, read into a cache that
    the module's tests share.

    Processor time of this process and its workers, so that whatever else the machine does has no
    part in it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMLIB_CACHE", str(tmp_path_factory.mktemp("crohme")))
        started = os.times()
        reports = prepare.prepare(show=str)
        yield reports, np.subtract(os.times(), started)[:4].sum()


@pytest.mark.slow
def test_all_of_crohme(all_of_crohme):
    """Counts, faults by name, every token known; reading takes a minute on 2 cores,
    opening 0.1 s.
    """
    (train, t14, t16, p16, t19), used = all_of_crohme
    assert used < 2 * 60 or "COVERAGE_RUN" in os.environ  # which takes its own time
    assert (train["listed"], train["read"]) == (8836, 8834)
    assert [r.split(":")[0] for r in train["skipped"]] == [
        "train_2014/MfrDB/MfrDB0104.inkml",
        "train_2014/MfrDB/MfrDB3088.inkml",
    ]
    assert [(r["listed"], r["read"], r["skipped"]) for r in (t14, t16, p16, t19)] == [
        (986, 986, []),
        (1147, 1147, []),
        (1147, 1147, []),
        (1199, 1199, []),
    ]
    refused = (178, 189, 191, 195, 216, 309)  # ABOVE forms, and braces without a partner
    assert sorted(t14["invalid_labels"]) == [f"RIT_2014_{number}" for number in refused]
    assert not any(r["invalid_labels"] or r["no_label"] for r in (train, t16, p16, t19))
    assert train["symbol_classes"] == 101
    assert train["pack_bytes"] < 10 * 2**20
    ink, pictures = prepare.load_pack("test_2016"), prepare.load_pack("test_2016_pictures")
    assert (ink.traced, pictures.traced) == (False, True)
    assert sorted(ink.ids) == sorted(pictures.ids)
    pack = prepare.load_pack("train_2014")
    assert pack.vocabulary == tuple(Vocabulary.crohme().tokens)
    assert len(set(pack.ids)) == len(pack) == 8834
    times = []
    for _ in range(5):
        started = time.process_time()
        Pack.open(pack.path)
        times.append(time.process_time() - started)
    assert min(times) < 0.1


@pytest.mark.slow
def test_split_of_crohme(all_of_crohme):
    pack = prepare.load_pack("train_2014")
    train, valid = split(pack)
    report = leak(pack, train, valid)
    assert len(train) >= 0.85 * len(pack)
    assert 500 <= len(valid) <= 700
    assert report["formulas_seen"] == report["writers_seen"] == 0
    assert {"HAMEX", "KAIST", "MathBrush", "MfrDB", "expressmatch"} <= {
        pack.sources[i] for i in valid
    }
    assert len({pack.tokens(i) for i in valid}) > 0.95 * len(valid)
    formulas = {pack.tokens(i) for i in train}
    for name, share in (("test_2014", 0.035), ("test_2019", 0.01)):
        test = prepare.load_pack(name)
        assert seen(test, range(len(test)), formulas) < share
