"""Files that want to do harm, each by name: refused with a documented error, in little time and
memory.
"""

import ast
import bz2
import gzip
import io
import json
import lzma
import pickle
import re
import resource
import struct
import subprocess
import sys
import tarfile
import time
import zlib

import numpy as np
import pytest

from mmlib.cli import DOCUMENTED, UsageError, main
from mmlib.data import archives
from mmlib.data.errors import DataError
from mmlib.data.pack import Pack, PackError
from mmlib.data.pictures import decode
from mmlib.data.prepare import load_own
from mmlib.formula.ink import Ink, InkError
from mmlib.formula.inkml import read_inkml
from mmlib.formula.latex import LatexError, canonical
from mmlib.read.formats import FormatError
from mmlib.read.reader import Reader
from mmlib.store.files import RunError, project_root
from mmlib.store.run import Run
from mmlib.store.weights import load_weights


@pytest.fixture(autouse=True)
def bounded():
    """No more than a few seconds, even here, and half a GiB more than before."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 2**10


def png(width, height, data=b""):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size",
                         [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (2**31 - 1, 1),
                          (8_000, 8_000)])
def test_a_picture_of_absurd_size(size):
    with pytest.raises(DataError, match=r"pixels are too many|decompression bomb"):
        decode(png(*size))


def test_a_picture_whose_data_unpack_to_far_more_than_it_shows():
    with pytest.raises(DataError):
        decode(png(20_000, 4_000, bytes(200 * 2**20)))


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, bz2.compress])
def test_an_archive_that_unpacks_without_end(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(archives, "MAX_TOTAL", 2**24)
    head = tarfile.TarInfo("set/x.inkml")
    head.size = 2**40  # claims a terabyte
    path = tmp_path / "bomb.tar"
    path.write_bytes(pack(head.tobuf() + bytes(2**22)))
    with pytest.raises(DataError, match="beyond the size limits"):
        list(archives.iter_archive(path))
    many = io.BytesIO()
    with tarfile.open(fileobj=many, mode="w") as tar:
        for number in range(40):
            info = tarfile.TarInfo(f"set/{number}.inkml")
            info.size = 2**19
            tar.addfile(info, io.BytesIO(bytes(2**19)))
    path.write_bytes(pack(many.getvalue()))
    with pytest.raises(DataError, match="beyond the size limits"):
        list(archives.iter_archive(path))


@pytest.mark.parametrize("name", ["../../x.inkml", "/elsewhere/x.inkml", "a/../../x.inkml"])
def test_ones_own_archive_with_a_path_that_leads_out(tmp_path, monkeypatch, name):
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "own.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="outside the archive"):
        load_own(path)
    assert not list(tmp_path.rglob("x.inkml"))


def test_entities_that_multiply():
    levels = "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 12))
    bomb = (f'<!DOCTYPE ink [<!ENTITY a0 "ha">{levels}]>'
            '<ink><annotation type="truth">&a11;</annotation></ink>')
    with pytest.raises(InkError, match=r"refused|not well-formed"):
        read_inkml(bomb.encode(), "bomb.inkml")


def test_elements_nested_without_end():
    with pytest.raises(InkError):
        read_inkml(b"<ink>" + b"<traceGroup>" * 1_000_000, "deep.inkml")
    closed = b"<ink>" + b"<traceGroup>" * 200_000 + b"</traceGroup>" * 200_000 + b"</ink>"
    with pytest.raises(InkError):
        read_inkml(closed, "deep.inkml")


@pytest.mark.parametrize("piece", ["{", r"\frac{", "x^{", r"\sqrt[", r"\left(", "^"])
def test_latex_nested_a_million_deep(piece):
    with pytest.raises(LatexError, match="characters are too many"):
        canonical(piece * 1_000_000)


@pytest.mark.parametrize("points", ["0 0, nan nan", "0 0, 1e400 0", "0 0, inf 1", "0 0, 1e30 1"])
def test_ink_that_is_not_finite(points):
    with pytest.raises(InkError, match="NaN, infinite or absurdly large"):
        read_inkml(f"<ink><trace>{points}</trace></ink>".encode(), "nan.inkml")
    with pytest.raises(InkError, match="NaN or infinite"):
        Ink.from_strokes([[(0, 0), (np.nan, 1)]])


def test_a_label_longer_than_the_decoder_is_left_out_of_training(make_pack, make_ink):
    from mmlib.data.augment import AugmentConfig, Augmenter
    from mmlib.data.batches import Feed

    pack = make_pack([make_ink("x", "short"), make_ink(r"\frac{x}{x}" * 25, "long")])
    feed = Feed([(Augmenter(pack, np.arange(2), AugmentConfig()), None)], 1e6, 8, 0)
    assert [s.id for group in feed.epoch(0) for s in group] == ["short"]


# --- weights and packs that are something else ----------------------------------------------------


def hostile(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


F32 = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def with_metadata(text):
    """A file of one array whose metadata are this text."""
    about = {"metadata": text, "header": text, "format": "mmlib-pack-1"}
    return hostile({"__metadata__": about, "x": F32}, bytes(16))


HEADERS = {
    "a length beyond the file": hostile({"x": F32}, bytes(16), 2**62),
    "no JSON": hostile(b"{" * 1_000),
    "nested without end": hostile(b'{"a":' * 500_000),
    "offsets beyond the file": hostile({"x": F32 | {"data_offsets": [0, 2**40]}}, bytes(16)),
    "a shape that overflows": hostile({"x": F32 | {"shape": [2**33, 2**33]}}, bytes(16)),
    "offsets that overlap": hostile({"x": F32, "y": F32}, bytes(16)),
    "metadata that are no JSON": with_metadata("{"),
    "metadata nested without end": with_metadata("[" * 100_000),
    "metadata that are a list": with_metadata("[1]"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_safetensors_file_with_a_hostile_header(tmp_path, name):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(HEADERS[name])
    with pytest.raises(RunError, match=re.escape(path.name)):
        Reader.load(path)
    with pytest.raises(PackError, match=re.escape(path.name)):
        Pack.open(path)


class Harm:
    def __reduce__(self):
        return (open, ("harm", "w"))


def test_a_pickle_named_as_weights_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data in (pickle.dumps(Harm()), pickle.dumps({"x": Harm()}, protocol=0)):
        path = tmp_path / "weights.safetensors"
        path.write_bytes(data)
        with pytest.raises(RunError, match="not a whole safetensors file"):
            load_weights(path)
        run = Run("s", "p", {}, {}, "1", tmp_path)
        for _ in range(2):
            checkpoint = run.save_checkpoint(1, {})
            checkpoint.write_bytes(data)
            with pytest.warns(UserWarning, match="damaged"), pytest.raises(RunError):
                run.load_checkpoint()
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_whose_name_fits_a_pickle_runs_nothing(tmp_path, monkeypatch):
    """A stranger can give a file any name, the right digest too."""
    from mmlib.store.files import digest

    monkeypatch.chdir(tmp_path)
    run = Run("s", "p", {}, {}, "1", tmp_path)
    file = tmp_path / "x"
    file.write_bytes(pickle.dumps(Harm()))
    file.rename(tmp_path / f"checkpoint-0000000001-{digest(file)}.safetensors")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(RunError):
        run.load_checkpoint()
    assert not (tmp_path / "harm").exists()


def test_no_code_is_ever_read_from_data():
    """No pickle, eval, exec, shell or `torch.load` in the package."""
    modules = {"pickle", "dill", "shelve", "marshal", "joblib", "yaml"}
    calls = {"eval", "exec", "torch.load", "os.system", "os.popen", "builtins.eval"}
    found = []
    for path in sorted((project_root() / "mmlib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [
                node.module or ""] if isinstance(node, ast.ImportFrom) else []
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            loose = {keyword.arg: ast.unparse(keyword.value)
                     for keyword in node.keywords} if isinstance(node, ast.Call) else {}
            if modules & {name.partition(".")[0] for name in named} or called in calls or (
                    loose.get("shell"), loose.get("allow_pickle")) != (None, None):
                found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert found == []


# --- configurations -------------------------------------------------------------------------------


def test_a_number_that_is_none_is_refused_in_one_line(capsys):
    assert main(["finetune", "--init", "none", "--optim.lr", "nan"]) == 2
    assert capsys.readouterr().err.startswith("mmlib: a configuration holds only numbers")


def test_the_documented_errors_exist():
    kinds = {kind.__name__
             for kind in (UsageError, InkError, LatexError, DataError, PackError, RunError,
                          FormatError, FileNotFoundError, PermissionError)}
    assert kinds == DOCUMENTED


def test_workers_do_not_outlive_a_killed_parent():
    code = """
import os, signal, time
from concurrent.futures import ProcessPoolExecutor
from mmlib.data.workers import end_with_parent
pool = ProcessPoolExecutor(2, initializer=end_with_parent)
print(*{pool.submit(os.getpid).result() for _ in range(20)} | set(pool._processes), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=project_root(), timeout=60)
    workers = [int(pid) for pid in done.stdout.split()]
    assert workers
    until = time.monotonic() + 10
    while (left := [pid for pid in workers if alive(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
