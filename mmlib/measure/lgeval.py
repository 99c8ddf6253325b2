r"""Export in the layout that CROHME's own LgEval tools read, so that anyone can score us with them.

One text file per expression, ``<id>.txt``::

    %<id>
    $<latex>$

in ``predictions/`` and ``truth/``. The competition's offline scoring turns such a folder into
symbol layout graphs (``tex2symlg``, which reads each file as Markdown with pandoc) and compares two
folders of graphs::

    tex2symlg predictions predictions_lg
    tex2symlg truth truth_lg
    evaluate predictions_lg truth_lg      # writes Results_predictions_lg/Summary.txt

``tex2symlg`` is in the convert2symLG folder and ``evaluate`` in lgeval/bin, both distributed with
CROHME 2019 and with CoMER's code; put both on PATH and set LgEvalDir and Convert2SymLGDir to their
folders. With the competition's own graphs at hand, compare against those instead of ``truth_lg``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

Formula = str | Sequence[str] | None


def export(directory: str | os.PathLike[str], ids: Sequence[str], predictions: Sequence[Formula],
           references: Sequence[Formula]) -> None:
    """Write ``predictions/<id>.txt`` and ``truth/<id>.txt`` under `directory` (made if missing).

    Args:
        directory: where to write; files of the same names are replaced.
        ids: one plain file name each, without an ending.
        predictions: token lists or LaTeX; None (nothing recognised) becomes an empty formula.
        references: token lists or LaTeX; give the raw LaTeX of a label that our parser refuses, so
            that it stays in the tool's denominator too.

    Raises:
        ValueError: lists of different lengths, an id that is repeated or not a plain file name,
            LaTeX with a dollar sign or a line break inside.
    """
    if not len(ids) == len(predictions) == len(references):
        raise ValueError(f"{len(ids)} ids, {len(predictions)} predictions, "
                         f"{len(references)} references")
    if len(set(ids)) != len(ids):
        raise ValueError("an id is repeated")
    for name in ids:
        plain = name == os.path.basename(name) and not name.startswith(".") and name.isprintable()
        if not name or not plain:
            raise ValueError(f"not a plain file name: {name!r}")
    for folder, formulas in (("predictions", predictions), ("truth", references)):
        path = Path(directory, folder)
        path.mkdir(parents=True, exist_ok=True)
        for name, formula in zip(ids, formulas, strict=True):
            (path / f"{name}.txt").write_text(f"%{name}\n${_latex(formula)}$\n", encoding="utf-8")


def _latex(formula: Formula) -> str:
    text = formula if isinstance(formula, str) else " ".join(formula or ())
    # Pandoc takes "$ x$" for money: no space inside the dollars.
    text = text.strip().strip("$").strip()
    if "$" in text.replace(r"\$", "") or "\n" in text or "\r" in text:
        raise ValueError(f"a dollar sign or a line break inside {text!r}")
    return text
