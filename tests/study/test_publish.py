"""What ships is known again by its digest, and so is what shipped before."""

import json

from mmlib.read.reader import Reader
from mmlib.store.files import digest, project_root
from mmlib.study.publish import publish, shipped_digests


def test_every_weights_file_that_shipped_keeps_its_digest(tmp_path, monkeypatch):
    shipped = project_root() / "results" / "checkpoints" / "recogniser.safetensors"
    run = Reader.load(shipped).run
    assert shipped_digests()[run] == digest(shipped)
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    assert shipped_digests() == {}
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "published.json").write_text(json.dumps({"older": "0123"}))
    target = publish(shipped)
    assert shipped_digests() == {"older": "0123", run: digest(target)}
    assert digest(target) == digest(shipped)  # published again, it is the same file
