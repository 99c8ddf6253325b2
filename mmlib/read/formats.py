"""A reading's LaTeX in other languages: MathML, which Word takes when pasted, and SymPy."""

from __future__ import annotations

from typing import Literal

Format = Literal["latex", "mathml", "sympy"]


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
    from sympy import Basic
    from sympy.parsing.latex import parse_latex

    try:
        found = parse_latex(latex, backend="lark")
    except Exception as error:  # its transformer raises what SymPy's classes raise
        raise FormatError(f"SymPy does not parse {latex}") from error
    if not isinstance(found, Basic):  # it gives a tree where several meanings are possible
        raise FormatError(f"SymPy finds several meanings of {latex}")
    return str(found)
