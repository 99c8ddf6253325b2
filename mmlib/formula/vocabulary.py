"""The symbols of CROHME, and the ids of tokens."""

from collections.abc import Iterable, Sequence
from itertools import takewhile

_SIGNS = "!()+,-./0123456789=[]|"
_LETTERS = "ABCEFGHILMNPRSTVXYabcdefghijklmnopqrstuvwxyz"
_COMMANDS = r"""
    \Delta \alpha \beta \cos \div \exists \forall \gamma \geq \gt \in \infty \int \lambda \ldots
    \leq \lim \log \lt \mu \neq \phi \pi \pm \prime \rightarrow \sigma \sin \sqrt \sum \tan
    \theta \times \{ \}"""
# The 101 symbol classes of CROHME 2014 to 2019. A fraction's bar has the class "-", its token is
# \frac.
CROHME_CLASSES = tuple(sorted({*_SIGNS, *_LETTERS, *_COMMANDS.split()}))
# What people write beyond them: a flagship reads these too. \overline stands for its bar.
_BEYOND = r"""
    D J K O Q U W Z : \delta \epsilon \zeta \eta \kappa \nu \xi \rho \tau \chi \psi \omega \Omega
    \circ \angle \partial \nabla \neg \% \cup \cap \wedge \vee \subset \subseteq \approx \equiv \sim
    \perp \leftarrow \leftrightarrow \Rightarrow \Leftrightarrow \prod \overline"""
BEYOND = tuple(sorted(_BEYOND.split()))
DOT = r"\cdot"  # classed as "." in CROHME's ink truth, but 4 \cdot 5 is not 4.5
STRUCTURE = (r"\frac", "^", "_", "{", "}")


class Vocabulary:
    """Tokens and their ids: the specials, then ``tokens`` as given.

    Raises ValueError if a token comes twice.
    """

    SPECIALS = ("<pad>", "<sos>", "<eos>", "<unk>")

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = (*self.SPECIALS, *tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            raise ValueError("a vocabulary holds each token once")
        self.pad, self.sos, self.eos, self.unk = range(4)

    @classmethod
    def crohme(cls) -> "Vocabulary":
        """CROHME's classes, ``\\cdot`` and the structure tokens: the same ids in every run."""
        return cls(sorted({*CROHME_CLASSES, DOT, *STRUCTURE}))

    def plus(self, tokens: Iterable[str]) -> "Vocabulary":
        """These tokens, and behind them those of `tokens` that are new."""
        known = self.tokens[len(self.SPECIALS) :]
        return Vocabulary([*known, *(token for token in tokens if token not in self)])

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Ids of tokens; an unknown token has the id ``unk``."""
        return [self._ids.get(token, self.unk) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Tokens of ids up to the first ``<eos>``, without ``<pad>`` and ``<sos>``."""
        written = takewhile(lambda i: i != self.eos, ids)
        return [self.tokens[i] for i in written if i not in (self.pad, self.sos)]

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._ids
