"""The page that reads, `site/try.html`: the exported recogniser, ONNX Runtime and KaTeX.

It opens without a network or a server. Browsers let a page that is a file fetch nothing, not even
from beside it, so the runtime, the graphs and the worker's code are scripts that hold text, the
large ones base64 of gzip.
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mmlib.read.export import CONFIG, DECODER, ENCODER, SMALL, export
from mmlib.read.reader import Reader

HERE = Path(__file__).parent
RUNTIME = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
# In this order, after the runtime.
WORKER = "ink.js", "trace.js", "ways.js", "wellformed.js", "search.js", "engine.js"
LICENCES = {"onnxruntime-web": "https://github.com/microsoft/onnxruntime",
            "katex": "https://github.com/KaTeX/KaTeX",
            "iframe-worker": "https://github.com/squidfunk/iframe-worker"}  # of the site's search


class PageError(RuntimeError):
    """The page cannot be built: the message says what is missing."""


def modules() -> Path:
    """The folder of npm's packages, installed where it is not there.

    Raises PageError where npm is missing or fails.
    """
    found = HERE / "node_modules"
    if not all((found / name).is_dir() for name in LICENCES):
        try:
            subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"],
                           cwd=HERE, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            message = f"the page that reads needs Node's npm, with its registry or cache: {error}"
            raise PageError(message) from error
    return found


def packed(content: bytes) -> str:
    """Base64 of gzip, the same for the same content."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def examples(count: int = 4) -> list[list[list[list[float]]]]:
    """Strokes of synthetic formulas, in typical symbols from (0, 0), for those who cannot draw."""
    from mmlib.formula.ink import typical_size
    from mmlib.synthetic.compose import synthetic_ink

    found = []
    for ink in sorted(synthetic_ink(40, 11), key=lambda i: abs(len(i.tokens or ()) - 12))[:count]:
        points = (ink.points - ink.points.min(0)) / typical_size(ink.points, ink.stroke)
        ends = np.flatnonzero(np.diff(ink.stroke)) + 1
        found.append([stroke.round(2).tolist() for stroke in np.split(points, ends)])
    return found


def assets(folder: Path, modules: Path) -> dict[str, str]:
    """Text of the generated scripts, from an export in `folder`."""
    runtime = modules / "onnxruntime-web" / "dist"
    code, glue, wasm = (runtime / name for name in RUNTIME)
    scripts = (code, *(HERE / name for name in WORKER))
    worker = "\n".join(path.read_text("utf-8") for path in scripts)
    about: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
    graphs = {}
    for name in (ENCODER, DECODER):
        small = folder / name.replace(".onnx", SMALL)
        graphs[name.removesuffix(".onnx")] = packed(small.read_bytes())
    engine = {"code": worker, "glue": glue.read_text("utf-8")}
    model = {**graphs, "card": about, "examples": examples()}
    values = {"ENGINE": engine, "WASM": packed(wasm.read_bytes()), "MODEL": model}
    return {f"{name.lower()}.js": f"const {name} = {json.dumps(value)};\n"
            for name, value in values.items()}


def build(site: Path, reader: Reader | None = None) -> Path:
    """Write `try.html` and the folder `try/` beside it; returns the page.

    Raises PageError where npm's packages cannot be had, and ImportError without the extra `export`.
    """
    parts = modules()
    target = site / "try"
    (target / "fonts").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        export(reader or Reader.load(), folder)
        for name, text in assets(Path(folder), parts).items():
            (target / name).write_text(text, "utf-8")
    katex = parts / "katex" / "dist"
    own = [HERE / name for name in ("confidence.js", "try.js", "try.css")]
    for file in (katex / "katex.min.js", katex / "katex.min.css", *own):
        shutil.copyfile(file, target / file.name)
    for font in katex.glob("fonts/*.woff2"):
        shutil.copyfile(font, target / "fonts" / font.name)
    for package, url in LICENCES.items():
        licence = next((parts / package).glob("LICENSE*"), None)
        text = licence.read_text("utf-8") if licence else f"MIT; see {url}\n"
        (target / f"LICENSE-{package}.txt").write_text(text, "utf-8")
    shutil.copyfile(HERE / "try.html", site / "try.html")
    return site / "try.html"
