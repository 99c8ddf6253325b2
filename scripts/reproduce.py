"""Execute the notebooks in order: `python -m scripts.reproduce [NOTEBOOK…] -p NAME VALUE`.

Each notebook also runs with plain papermill, from anywhere. This adds three things: all of them run
in order; an unknown parameter is an error before anything runs (papermill only warns); a failure
names notebook and cell.
"""

from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import io
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import chdir
from pathlib import Path
from typing import Any

import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from mmlib.store.files import RunError, project_root, results_root, write_atomic

# What reading a file that is no notebook, or a damaged one, can raise.
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, SyntaxError, RecursionError,
           MemoryError)


def find_notebooks(names: Sequence[str] = ()) -> list[Path]:
    """The project's notebooks in order, or those named: '02', '02_contrastive_…', or a path."""
    known = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    found = []
    for name in names:
        given = Path(name)
        named = [p for p in known if given.stem in (p.stem, p.stem[:2])]
        matches = [given.resolve()] if given.suffix == ".ipynb" and given.is_file() else named
        if not matches:
            there = ", ".join(p.stem for p in known) or "none"
            raise RunError(f"no notebook {name!r}; there are: {there}")
        found += matches
    if not (found or known):
        raise RunError(f"no notebooks in {project_root() / 'notebooks'}")
    return found or known


def parameters_of(notebook: Path) -> dict[str, str]:
    """The parameters that a notebook declares, with their annotations ('' for none).

    Papermill's own inspection uses a pattern that misses `limit: int | None = None`. Raises
    RunError unless exactly one code cell is tagged `parameters` and holds only assignments.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", ())]
        if len(tagged) != 1 or tagged[0]["cell_type"] != "code":
            count = f"{len(tagged)} cells tagged 'parameters'"
            raise RunError(f"{notebook.name} has {count}, it needs one code cell")
        body = ast.parse("".join(tagged[0]["source"])).body
    except DAMAGED as error:
        what = "is no notebook with a readable parameters cell"
        raise RunError(f"{notebook.name} {what}: {error!r}") from error
    declared: dict[str, str] = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            declared[node.target.id] = ast.unparse(node.annotation)
        elif isinstance(node, ast.Assign) and all(isinstance(to, ast.Name) for to in node.targets):
            declared |= {to.id: "" for to in node.targets if isinstance(to, ast.Name)}
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            what = "the parameters cell holds more than assignments"
            raise RunError(f"{notebook.name}: {what}: {ast.unparse(node)}")
    return declared


def _value(text: Any, annotation: str) -> Any:
    """A command line's value: text where the notebook says `str`, else a literal if it is one."""
    if not isinstance(text, str) or annotation == "str":
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def reproduce(notebooks: Sequence[str] = (), parameters: Mapping[str, Any] | None = None,
              out: Path | None = None, keep: bool = False, at_once: int = 1) -> dict[str, float]:
    """Execute notebooks (default: all, in order); returns their names with the seconds each took.

    `parameters` go to the notebooks that declare them; text is read as a Python literal unless the
    notebook annotates the parameter as `str`. Executed copies are kept in `out` (default
    `results/executed/`). With `keep` and no parameters, an executed copy also takes the notebook's
    own place, as what is committed. Of several `at_once`, the first works from the front, since a
    notebook uses what those before it trained, and the others from the back.

    Raises RunError before anything runs for an unknown notebook or a parameter that none of them
    declares, and at the first failing cell, naming notebook and cell.
    """
    paths, parameters = find_notebooks(notebooks), dict(parameters or {})
    declared = {path: parameters_of(path) for path in paths}
    known = sorted(set().union(*declared.values()))
    if unknown := [name for name in parameters if name not in known]:
        there = ", ".join(known)
        raise RunError(f"no notebook here has a parameter {unknown[0]!r}; there are: {there}")
    if keep and parameters:
        raise RunError(
            "what is committed is executed with the notebook's own parameters; give none"
        )
    out = Path(out or results_root() / "executed").resolve()
    out.mkdir(parents=True, exist_ok=True)
    began, seconds, failed = time.monotonic(), dict[str, float](), threading.Event()
    left = deque(paths)

    def work(lane: int) -> None:
        while left and not failed.is_set():
            path = left.pop() if lane else left.popleft()
            own, start = declared[path], time.monotonic()
            given = {n: _value(text, own[n]) for n, text in parameters.items() if n in own}
            print(f"{path.stem} {given or ''}", flush=True)
            try:
                _execute(path, out / path.name, given, lane)
            except RunError:
                failed.set()
                raise
            if keep:
                write_atomic(path, clean((out / path.name).read_text(encoding="utf-8")))
            seconds[path.stem] = time.monotonic() - start
            done = f"[{len(seconds)}/{len(paths)}] {path.stem} done"
            print(f"{done} in {seconds[path.stem]:.0f} s", flush=True)

    # The working directory belongs to the process, not to a lane: papermill's own `cwd`, in two
    # lanes, can leave the process in the project's folder.
    with chdir(project_root()), ThreadPoolExecutor(at_once) as pool:
        for ended in as_completed([pool.submit(work, lane) for lane in range(at_once)]):
            ended.result()
    minutes = (time.monotonic() - began) / 60
    print(f"{len(paths)} notebooks in {minutes:.1f} min; executed copies in {out}", flush=True)
    return {path.stem: seconds[path.stem] for path in paths}


def _execute(path: Path, copy: Path, given: Mapping[str, Any], lane: int) -> None:
    """Execute one notebook into its copy, its bar on line `lane`; RunError where it fails."""
    every = 0.1 if sys.stderr.isatty() else 20  # few lines in a log file
    try:
        papermill.execute_notebook(
            path,
            copy,
            given,
            kernel_name="python3",
            progress_bar={"mininterval": every, "leave": False, "desc": path.stem,
                          "position": lane},
            extra_arguments=["--log-level=ERROR"],  # else each kernel warns about its transport
        )
    except PapermillExecutionError as error:
        cell = error.source.strip().splitlines()[0]
        raise RunError(
            f"{path.name} failed in cell In [{error.exec_count}] ({cell}): {error.ename}: "
            f"{error.evalue}; the traceback is in {copy}"
        ) from error
    except (DeadKernelError, CellTimeoutError) as error:
        raise RunError(f"{path.name} failed: {error}; as far as it came it is in {copy}") from error


# --- what is committed ----------------------------------------------------------------------------

LIVE = "application/vnd.jupyter.widget-view+json"


def clean(notebook: str) -> str:
    """An executed notebook without what differs from run to run.

    Times, papermill's notes and the ids of live widgets go. A reader without a kernel sees each
    widget's picture; a widget without one, a progress bar, is left out. Pictures are light: at most
    256 colours.
    """
    found = json.loads(notebook)
    for key in ("papermill", "widgets", "executed"):
        found["metadata"].pop(key, None)
    found["metadata"]["executed"] = code_digest(found)
    found["metadata"].get("language_info", {}).pop("version", None)
    for cell in found["cells"]:
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        if not cell["metadata"].get("tags", True):
            del cell["metadata"]["tags"]
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"]
                               if LIVE not in (data := output.get("data", {}))
                               or "image/png" in data]
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            data.pop(LIVE, None)
            if "image/png" in data:
                data["image/png"] = lighter(data["image/png"])
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def code_digest(notebook: Mapping[str, Any]) -> str:
    """A digest of a notebook's code cells, by which a test finds outputs of other code."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def lighter(picture: str) -> str:
    """A PNG in base64 with at most 256 colours, on white; as it is where that is no shorter."""
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        if image.mode == "P":
            return picture
        drawn = image.convert("RGBA")
        white = Image.new("RGBA", drawn.size, "white")
        flat = Image.alpha_composite(white, drawn).convert("RGB")
    file = io.BytesIO()
    flat.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    small = base64.b64encode(file.getvalue()).decode() + "\n"
    return min(picture, small, key=len)


# --- the command ----------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that executes notebooks."""
    parser.add_argument("-p", dest="parameters", action="append", nargs=2, default=[],
                        metavar=("NAME", "VALUE"), help="a parameter of the notebooks")
    parser.add_argument("--out", type=Path, help="folder of executed copies (results/executed)")
    parser.add_argument("--keep", action="store_true", help="commit the executed copy's outputs")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 2 where a notebook fails or a name is unknown."""
    parser = argparse.ArgumentParser("scripts.reproduce", description=__doc__)
    parser.add_argument("notebooks", nargs="*", help="such as 02; default: all")
    add_options(parser)
    parser.add_argument("--at-once", type=int, default=1, help="so many at the same time (1)")
    args = parser.parse_args(argv)
    try:
        reproduce(args.notebooks, dict(args.parameters), args.out, args.keep, args.at_once)
    except RunError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
