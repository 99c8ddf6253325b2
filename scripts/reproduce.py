"""Execute the notebooks in order, headless: `mmlib reproduce [NOTEBOOK…] -p name value`.

Each notebook also runs with plain papermill, from anywhere. What this adds: all of them in order, an unknown
parameter is an error before anything runs (papermill only warns), and a failure names notebook and cell.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlib.store.runs import RunError, project_root, results_root, write_atomic


def find_notebooks(names: Sequence[str] = ()) -> list[Path]:
    """The project's notebooks in order, or those named: '02', '02_contrastive_pretraining', or a path."""
    known = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    found = []
    for name in names:
        given = Path(name)
        matches = [given] if given.is_file() else [p for p in known if given.stem in (p.stem, p.stem[:2])]
        if not matches:
            raise RunError(f"no notebook {name!r}; there are: {', '.join(p.stem for p in known) or 'none'}")
        found += matches
    if not (found or known):
        raise RunError(f"no notebooks in {project_root() / 'notebooks'}")
    return found or known


def parameters_of(notebook: Path) -> dict[str, str]:
    """The parameters that a notebook declares, with their annotations ('' for none).

    Papermill's own inspection reads lines with a pattern that passes over `limit: int | None = None`. Raises
    RunError unless exactly one code cell is tagged `parameters` and holds nothing but assignments to names.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", ())]
        if len(tagged) != 1 or tagged[0]["cell_type"] != "code":
            raise RunError(f"{notebook.name} has {len(tagged)} cells tagged 'parameters', it needs one code cell")
        body = ast.parse("".join(tagged[0]["source"])).body
    except (ValueError, KeyError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError) as error:
        raise RunError(f"{notebook.name} is no notebook with a readable parameters cell: {error!r}") from error
    declared = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            declared[node.target.id] = ast.unparse(node.annotation)
        elif isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
            declared |= {target.id: "" for target in node.targets if isinstance(target, ast.Name)}
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):  # a docstring is fine
            raise RunError(
                f"{notebook.name}: the parameters cell holds more than assignments: {ast.unparse(node)}"
            )
    return declared


def _value(text: Any, annotation: str) -> Any:
    """A command line's value: text where the notebook says `str`, else a Python literal if it is one."""
    if not isinstance(text, str) or annotation == "str":
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def reproduce(
    notebooks: Sequence[str] = (), parameters: Mapping[str, Any] | None = None, out: Path | None = None, keep: bool = False
) -> dict[str, float]:
    """Execute notebooks (default: all, in order) and return their names with the seconds each took.

    `parameters` go to the notebooks that declare them; text is read as a Python literal unless the notebook
    annotates the parameter as `str`. Executed copies are kept in `out` (default `results/executed/`). With `keep` and no
    parameters, an executed copy also takes the notebook's own place, as what is committed.

    Raises RunError before anything runs for an unknown notebook or a parameter that none of them declares,
    and at the first failing cell, naming notebook and cell.
    """
    paths, parameters = find_notebooks(notebooks), dict(parameters or {})
    declared = {path: parameters_of(path) for path in paths}
    if unknown := [name for name in parameters if not any(name in names for names in declared.values())]:
        known = ", ".join(sorted(set().union(*declared.values())))
        raise RunError(f"no notebook here has a parameter {unknown[0]!r}; there are: {known}")

    if keep and parameters:
        raise RunError("what is committed is executed with the notebook's own parameters; give none")

    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    out = Path(out or results_root() / "executed")
    out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    bar = {"mininterval": 0.1 if sys.stderr.isatty() else 20, "leave": False}  # few lines in a log file
    for number, path in enumerate(paths, 1):
        given = {
            name: _value(text, declared[path][name])
            for name, text in parameters.items()
            if name in declared[path]
        }
        print(f"[{number}/{len(paths)}] {path.stem} {given or ''}", flush=True)
        start = time.monotonic()
        try:
            papermill.execute_notebook(
                path,
                out / path.name,
                given,
                kernel_name="python3",
                progress_bar=bar | {"desc": path.stem},
                cwd=project_root(),
                extra_arguments=["--log-level=ERROR"],  # else each kernel warns about its transport
            )
        except PapermillExecutionError as error:
            cell = error.source.strip().splitlines()[0]
            raise RunError(
                f"{path.name} failed in cell In [{error.exec_count}] ({cell}): {error.ename}: "
                f"{error.evalue}; the traceback is in {out / path.name}"
            ) from error
        except (DeadKernelError, CellTimeoutError) as error:
            raise RunError(
                f"{path.name} failed: {error}; as far as it came it is in {out / path.name}"
            ) from error
        if keep:
            write_atomic(path, clean((out / path.name).read_text(encoding="utf-8")))
        seconds[path.stem] = time.monotonic() - start
        print(f"[{number}/{len(paths)}] {path.stem} done in {seconds[path.stem]:.0f} s", flush=True)
    print(
        f"{len(paths)} notebooks in {sum(seconds.values()) / 60:.1f} min; executed copies in {out}",
        flush=True,
    )
    return seconds


def clean(notebook: str) -> str:
    """An executed notebook without what differs from run to run: times, papermill's notes, and the ids of live widgets, so that
    a reader without a kernel sees each widget's picture; what has none, a progress bar, is left out. Pictures are light: at most
    256 colours."""
    found = json.loads(notebook)
    found["metadata"] = {k: v for k, v in found["metadata"].items() if k not in ("papermill", "widgets", "executed")}
    found["metadata"]["executed"] = code_digest(found)
    found["metadata"].get("language_info", {}).pop("version", None)
    for cell in found["cells"]:
        cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k not in ("papermill", "execution")}
        if not cell["metadata"].get("tags", True):
            del cell["metadata"]["tags"]
        live = "application/vnd.jupyter.widget-view+json"
        if "outputs" in cell:
            cell["outputs"] = [o for o in cell["outputs"] if live not in (data := o.get("data", {})) or "image/png" in data]
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            data.pop(live, None)
            if "image/png" in data:
                data["image/png"] = lighter(data["image/png"])
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def code_digest(notebook: dict[str, Any]) -> str:
    """Of a notebook's code cells: what a committed notebook's outputs were made by, so that a test finds stale ones."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def lighter(picture: str) -> str:
    """A PNG in base64 with at most 256 colours, on white; as it is where that is no shorter."""
    import base64
    import io

    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        if image.mode == "P":
            return picture
        drawn = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
    file = io.BytesIO()
    flat.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    small = base64.b64encode(file.getvalue()).decode() + "\n"
    return min(picture, small, key=len)
