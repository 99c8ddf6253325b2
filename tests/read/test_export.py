"""An exported recogniser reads what PyTorch reads, token for token, greedy and with a beam."""

import json
import sys

import numpy as np
import pytest
import torch

from mmlib.cli import main
from mmlib.data.corpus import synthetic_pack
from mmlib.draw.views import ViewConfig
from mmlib.formula.ink import typical_size
from mmlib.formula.vocabulary import Vocabulary
from mmlib.models.recogniser import Recogniser
from mmlib.read.export import CONFIG, DECODER, ENCODER, export
from mmlib.read.onnx import onnx_reader
from mmlib.read.reader import EXPORTED, Reader
from mmlib.store.files import RunError
from mmlib.train.profiles import TINY

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A random tiny recogniser, and the folder of its export."""
    torch.manual_seed(0)
    vocabulary = Vocabulary.crohme()
    model = Recogniser(len(vocabulary), TINY)
    with torch.no_grad():
        model.scalars["gamma"].fill_(0.3)
        model.decoder.logits.bias[[vocabulary.sos, vocabulary.eos]] += 1
        model.decoder.logits.weight.mul_(4)  # sure of itself: rounding decides nothing
    folder = tmp_path_factory.mktemp("export")
    reader = Reader(model.eval(), vocabulary, ViewConfig(), {}, folder, "toy", 7, 0.5)
    return reader, folder, export(reader, folder)


@pytest.fixture(scope="module")
def inks():
    pack = synthetic_pack("test")
    some = [pack[i] for i in range(8)]
    return [(ink.points, ink.stroke, typical_size(ink.points, ink.stroke)) for ink in some]


@pytest.mark.parametrize("beam", [1, 5])
def test_onnx_reads_token_for_token(exported, inks, beam, monkeypatch):
    reader, folder, _ = exported
    monkeypatch.setattr("mmlib.models.layers.native_bfloat16", lambda device="cpu": False)
    onnx = onnx_reader(folder)
    for ink in inks:  # one by one: the padding of a batch rounds otherwise
        ours, theirs = reader.read([ink], beam)[0], onnx.read([ink], beam)[0]
        assert [r.tokens for r in theirs] == [r.tokens for r in ours]
        assert np.allclose([r.score for r in theirs], [r.score for r in ours], atol=1e-5)


def test_several_sizes_are_read_together(exported, inks):
    onnx = onnx_reader(exported[1])
    assert onnx.read(inks[:1], 2, sizes=(1.0, 1.2))[0]


def test_eight_bits_read_nearly_the_same(exported, inks):
    _, folder, sizes = exported
    whole, small = onnx_reader(folder), onnx_reader(folder, small=True)
    found = [[reader.read([ink], 1)[0][0].score for ink in inks] for reader in (whole, small)]
    assert np.allclose(*found, atol=0.2)
    for name in ("encoder", "decoder"):
        assert sizes[f"{name}.int8.onnx"] < 0.6 * sizes[f"{name}.onnx"]


def test_an_export_loads_as_a_folder_of_weights(exported, inks):
    reader, folder, _ = exported
    again = Reader.load(folder)
    assert (again.run, again.pictures, again.minutes) == ("toy", 7, 0.5)
    assert again.vocabulary.tokens == reader.vocabulary.tokens
    for name, value in reader.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    assert again.read(inks[:2], 2) == reader.read(inks[:2], 2)


def test_a_damaged_export_is_named(exported, tmp_path):
    with pytest.raises(FileNotFoundError):
        onnx_reader(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({"model": {}}))
    (tmp_path / EXPORTED).write_bytes((exported[1] / EXPORTED).read_bytes())
    for load in (onnx_reader, Reader.load):
        with pytest.raises(RunError, match=str(tmp_path)):
            load(tmp_path)


def test_the_command_writes_the_files(tmp_path, capsys):
    assert main(["export", str(tmp_path / "out"), "--full"]) == 0
    said = capsys.readouterr().out
    for name in (CONFIG, ENCODER, DECODER, EXPORTED):
        assert (tmp_path / "out" / name).is_file()
        assert name in said


def test_without_the_extra_the_command_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(tmp_path / "out")]) == 2
    assert ".[export]" in capsys.readouterr().err
