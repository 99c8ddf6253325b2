"""Unicode's mathematical signs as LaTeX."""

import re
import unicodedata
from collections.abc import Container
from itertools import groupby

_SIGNS = r"""
    × \times ÷ \div ± \pm ∓ \mp − - – - · \cdot ⋅ \cdot ∙ \cdot • \bullet ∗ * ∘ \circ ≤ \leq ≥ \geq
    ⩽ \leq ⩾ \geq ≠ \neq ≈ \approx ≡ \equiv ∼ \sim ≃ \simeq ≅ \cong ∝ \propto ≪ \ll ≫ \gg
    → \rightarrow
    ⇐ \Leftarrow ← \leftarrow ↔ \leftrightarrow ⇒ \Rightarrow ⇔ \Leftrightarrow ↦ \mapsto ↑ \uparrow
    ↓ \downarrow ∞ \infty ∈ \in ∉ \notin ∋ \ni ∀ \forall ∃ \exists ∫ \int ∮ \oint ∑ \sum ∏ \prod
    √ \sqrt ∂ \partial ∇ \nabla ∅ \emptyset ∩ \cap ∪ \cup ∧ \wedge ∨ \vee ¬ \neg ⊂ \subset
    ⊆ \subseteq ⊃ \supset ⊇ \supseteq ⊥ \perp ∥ \parallel ∣ | ⊕ \oplus ⊗ \otimes ∖ \setminus
    ∠ \angle △ \triangle ⟨ \langle ⟩ \rangle ⌊ \lfloor ⌋ \rfloor ⌈ \lceil ⌉ \rceil ′ ' ″ '' ℏ \hbar
    ℓ \ell ℜ \Re ℑ \Im ℵ \aleph … \ldots ⋯ \cdots ⋮ \vdots ⋱ \ddots ϵ \epsilon ε \varepsilon
    ϑ \vartheta ϕ \phi φ \varphi ϖ \varpi ϱ \varrho ς \varsigma ∆ \Delta µ \mu Ω \Omega ⋆ \star"""
_COMMANDS = dict(zip(_SIGNS.split()[::2], _SIGNS.split()[1::2], strict=True))


def from_unicode(text: str, known: Container[str]) -> str:
    """Text with signs, Greek, powers (`x²`), indices and fractions (`½`) as LaTeX's commands.

    known: the commands that there are. A sign without one stays as it is.
    """
    runs = ((mark, "".join(_written(sign, known) for sign in run))
            for mark, run in groupby(text, _mark))
    return "".join(f"{mark}{{{run}}}" if mark else run for mark, run in runs)


def _mark(sign: str) -> str:
    """What LaTeX writes before a raised or lowered sign; nothing before others."""
    kind = unicodedata.decomposition(sign).split(" ")[0]
    return {"<super>": "^", "<sub>": "_"}.get(kind, "")


def _written(sign: str, known: Container[str]) -> str:
    """One sign, wherever it stands."""
    if command := _COMMANDS.get(sign) or _greek(sign, known):
        return f"{command} "
    kind, *codes = unicodedata.decomposition(sign).split() or [""]
    plain = "".join(chr(int(code, 16)) for code in codes)
    if kind == "<fraction>":
        return rf"\frac{{{plain.replace(chr(0x2044), '}{')}}}"
    if kind in ("<super>", "<sub>", "<font>", "<wide>", "<narrow>"):
        return _written(plain, known) if len(plain) == 1 else plain
    return sign


def _greek(sign: str, known: Container[str]) -> str | None:
    """The command of a Greek letter, by its Unicode name; capitals that look Latin as Latin."""
    found = re.fullmatch("GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)", unicodedata.name(sign, ""))
    if not found:
        return None
    name = found[2].replace("LAMDA", "LAMBDA")  # Unicode's spelling
    command = "\\" + (name.capitalize() if found[1] == "CAPITAL" else name.lower())
    looks = {"ALPHA": "A", "BETA": "B", "EPSILON": "E", "ZETA": "Z", "ETA": "H", "IOTA": "I",
             "KAPPA": "K", "MU": "M", "NU": "N", "RHO": "P", "TAU": "T", "CHI": "X", "OMICRON": "O"}
    return command if command in known else looks.get(name) if found[1] == "CAPITAL" else None
