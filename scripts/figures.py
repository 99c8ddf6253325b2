"""Draw the diagrams, then execute the notebook of figures and tables: `python -m scripts.figures`.

Everything comes from the committed results. With `--check` nothing committed changes: the figures
are drawn elsewhere, and what differs from the committed ones is named. (Equal pixels need the
pinned versions.)
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmlib.show import diagrams
from mmlib.store.files import RunError, elsewhere, figures_root
from scripts.reproduce import add_options, find_notebooks, reproduce

NOTEBOOK = "06"


def faults() -> Iterator[str]:
    """Draw the figures again, elsewhere; a sentence for each file or printed text that differs."""
    committed, (source,) = figures_root(), find_notebooks([NOTEBOOK])
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder, "figures")
        with elsewhere("MMLIB_FIGURES", drawn):
            diagrams.write()
            reproduce([NOTEBOOK], out=Path(folder))
        for name in sorted({path.name for place in (committed, drawn) for path in place.iterdir()}):
            old, new = committed / name, drawn / name
            if not (old.is_file() and new.is_file()) or old.read_bytes() != new.read_bytes():
                yield f"figures/{name}: it is not what the results draw"
        if printed(source) != printed(Path(folder, source.name)):
            yield f"notebooks/{source.name}: what it prints is not what the results give"


def printed(notebook: Path) -> list[str]:
    """What the cells of a notebook printed or showed as text, an entry per cell.

    What one cell prints may come in one output or several, as its kernel flushes it.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join("".join(o.get("text") or o.get("data", {}).get("text/markdown") or "")
                    for o in cell.get("outputs", ())) for cell in cells]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 2 where the notebook fails, 1 where `--check` finds a difference."""
    parser = argparse.ArgumentParser("scripts.figures", description=__doc__)
    add_options(parser)
    parser.add_argument("--check", action="store_true", help="compare with the committed figures")
    args = parser.parse_args(argv)
    try:
        if args.check:
            found = list(faults())
            print("\n".join(found) or "the committed figures are what the results draw")
            return int(bool(found))
        diagrams.write()
        reproduce([NOTEBOOK], dict(args.parameters), args.out, args.keep)
    except RunError as error:
        print(f"figures: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
