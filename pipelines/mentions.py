"""Which names a text mentions: by whole words, whatever their case and number.

Filters of neighbours are judged by it, and the synonyms of classes counted.
"""

import re
import unicodedata
from collections.abc import Iterable

from pipelines import class_names

_WORD = re.compile(r"[^\W_]+")
_BRACKETS = re.compile(r"\([^()]*\)")

Phrase = tuple[str, ...]
"""Words that follow one another."""


def words(text: str) -> Phrase:
    """Returns the words of a text without case and plural: `Golden_Retrievers.jpg` is `golden retriever jpg`."""
    return tuple(_singular(word) for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def phrase(name: str) -> Phrase:
    """Returns the words by which a text mentions a name: those outside of brackets."""
    return words(_BRACKETS.sub(" ", name))


def synonyms(name: str) -> list[Phrase]:
    """Returns the words of each synonym of a class name, which commas separate, without text in brackets."""
    parts = [words(part) for part in class_names.synonyms(_BRACKETS.sub(" ", name))]
    return list(dict.fromkeys(part for part in parts if part))


class Mentions:
    """Finds phrases in texts."""

    def __init__(self, phrases: Iterable[Phrase]) -> None:
        """Keeps the phrases to look for; one without a word is in no text."""
        self._phrases = {phrase for phrase in phrases if phrase}
        self._lengths = sorted({len(phrase) for phrase in self._phrases})

    def of(self, text: str) -> set[Phrase]:
        """Returns the phrases all of whose words are in a text, one after another."""
        own = words(text)
        return {own[at : at + n] for n in self._lengths for at in range(len(own) - n + 1)} & self._phrases
