r"""Export in the layout that CROHME's own LgEval tools read, so that anyone can score us with them.

One text file per expression, ``<id>.txt``::

    %<id>
    $<latex>$

in ``predictions/`` and ``truth/``. The competition's offline scoring turns such a folder into symbol layout
graphs (``tex2symlg``, which reads each file as Markdown with pandoc) and compares two folders of graphs::

    tex2symlg predictions predictions_lg
    tex2symlg truth truth_lg
    evaluate predictions_lg truth_lg      # writes Results_predictions_lg/Summary.txt

``tex2symlg`` is in the convert2symLG folder and ``evaluate`` in lgeval/bin, both distributed with CROHME 2019
and with CoMER's code; put both on PATH and set LgEvalDir and Convert2SymLGDir to their folders. With the
competition's own graphs at hand, compare against those instead of ``truth_lg``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def export(
    directory: str | os.PathLike[str],
    ids: Sequence[str],
    predictions: Sequence[str | Sequence[str] | None],
    references: Sequence[str | Sequence[str] | None],
) -> None:
    """Write ``predictions/<id>.txt`` and ``truth/<id>.txt`` under `directory` (made if missing).

    Args:
        directory: where to write; files of the same names are replaced.
        ids: one plain file name each, without an ending.
        predictions: token lists or LaTeX; None (nothing recognised) becomes an empty formula.
        references: token lists or LaTeX; give the raw LaTeX of a label that our parser refuses, so that it
            stays in the tool's denominator too.

    Raises:
        ValueError: lists of different lengths, an id that is repeated or not a plain file name, LaTeX with a
            dollar sign or a line break inside.
    """
    if not len(ids) == len(predictions) == len(references):
        raise ValueError(f"{len(ids)} ids, {len(predictions)} predictions, {len(references)} references")
    if len(set(ids)) != len(ids):
        raise ValueError("an id is repeated")
    for name in ids:
        if not name or name != os.path.basename(name) or name.startswith(".") or not name.isprintable():
            raise ValueError(f"not a plain file name: {name!r}")
    for folder, formulas in (("predictions", predictions), ("truth", references)):
        path = Path(directory, folder)
        path.mkdir(parents=True, exist_ok=True)
        for name, formula in zip(ids, formulas, strict=True):
            (path / f"{name}.txt").write_text(f"%{name}\n${_latex(formula)}$\n", encoding="utf-8")


def read_export(directory: str | os.PathLike[str]) -> tuple[list[str], list[str], list[str]]:
    """Ids (sorted), predicted LaTeX and true LaTeX of what `export` wrote; "" where it was None.

    Raises ValueError for a file of another layout, and for a prediction or a truth without the other.
    """
    folders = [{p.stem: p for p in Path(directory, name).glob("*.txt")} for name in ("predictions", "truth")]
    if folders[0].keys() != folders[1].keys():
        raise ValueError(f"without a partner: {sorted(folders[0].keys() ^ folders[1].keys())[:5]}")
    ids = sorted(folders[0])
    predicted, true = ([_read(folder[name], name) for name in ids] for folder in folders)
    return ids, predicted, true


def _latex(formula: str | Sequence[str] | None) -> str:
    text = "" if formula is None else formula if isinstance(formula, str) else " ".join(formula)
    text = text.strip().strip("$").strip()  # pandoc takes "$ x$" for money: no space inside the dollars
    if "$" in text.replace(r"\$", "") or "\n" in text or "\r" in text:
        raise ValueError(f"a dollar sign or a line break inside {text!r}")
    return text


def _read(path: Path, name: str) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) != 2 or lines[0] != f"%{name}" or len(lines[1]) < 2 or lines[1][0] + lines[1][-1] != "$$":
        raise ValueError(f"{path.name}: not '%{name}' and then '$latex$'")
    return lines[1][1:-1]
