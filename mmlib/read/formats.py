"""A reading's LaTeX in other languages: MathML, which Word takes when pasted, and SymPy."""

from __future__ import annotations

from typing import Literal

Format = Literal["latex", "mathml", "sympy"]
# SymPy's grammar lacks two letters of ours; two that no reading has stand in for them.
STANDS_IN = {r"\pi": r"\kappa", r"\Delta": r"\zeta"}


class FormatError(ValueError):
    """LaTeX has no form in another language, or the package that writes it is missing."""


def written(latex: str, form: Format = "latex") -> str:
    """LaTeX in another language; SymPy as text that `sympy.sympify` takes back.

    Raises FormatError where the package is missing, or where the formula means nothing to SymPy.
    """
    if form == "latex":
        return latex
    try:
        return _mathml(latex) if form == "mathml" else _sympy(latex)
    except ImportError as error:
        raise FormatError(f"{error.name} is missing; pip install 'mmlib[formats]'") from None


def _mathml(latex: str) -> str:
    from latex2mathml.converter import convert

    try:
        return str(convert(latex, display="block"))
    except Exception as error:  # it documents none, and raises what its parts raise
        raise FormatError(f"{latex} cannot be written as MathML ({error})") from error


def _sympy(latex: str) -> str:
    import lark  # noqa: F401  # SymPy's own message would not name our extra
    from sympy import Basic, Symbol, pi
    from sympy.parsing.latex import parse_latex

    for sign, other in STANDS_IN.items():
        latex = latex.replace(sign, other)
    try:
        found = parse_latex(latex, backend="lark")
    except Exception as error:  # its transformer raises what SymPy's classes raise
        raise FormatError(f"SymPy does not parse {latex}") from error
    if not isinstance(found, Basic):  # it gives a tree where several meanings are possible
        raise FormatError(f"SymPy finds several meanings of {latex}")
    return str(found.subs({Symbol("kappa"): pi, Symbol("zeta"): Symbol("Delta")}))
