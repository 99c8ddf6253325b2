"""LaTeX to MathML and SymPy, and what is said where it has no such form."""

import builtins

import pytest

from mmlib.read.formats import FormatError, written


@pytest.mark.parametrize(("latex", "sympy"), [
    ("x^{2}+3x-4=0", "Eq(x**2 + 3*x - 4, 0)"), (r"\int_{1}^{2}x dx", "Integral(x, (x, 1, 2))"),
    (r"\frac{1-4^{x}}{1-4x}", "(1 - 4**x)/(1 - 4*x)"),
    (r"\Delta^{2}=2\pi r", "Eq(Delta**2, 2*pi*r)"),
])
def test_a_formula_in_each_language(latex, sympy):
    assert written(latex) == latex
    assert written(latex, "sympy") == sympy
    mathml = written(latex, "mathml")
    assert mathml.startswith("<math")
    assert mathml.count("<msup>") + mathml.count("<msubsup>") == latex.count("^")


@pytest.mark.parametrize("latex", [r"\forall x\in A", "x_{", "f(x)"])
def test_what_means_nothing_to_sympy_is_refused(latex):
    with pytest.raises(FormatError, match="SymPy"):
        written(latex, "sympy")


@pytest.mark.parametrize(("form", "package"), [("mathml", "latex2mathml"), ("sympy", "lark")])
def test_a_missing_package_is_named_with_the_remedy(form, package, monkeypatch):
    real = builtins.__import__

    def no_package(name, *arguments, **options):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=package)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", no_package)
    with pytest.raises(FormatError, match=rf"{package} is missing; pip install"):
        written("x", form)
