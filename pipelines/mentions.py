"""Which names a text mentions: by whole words, whatever their case and number.

Filters of neighbours are judged by it, the synonyms of classes counted, and the rows of a class found by its name.
"""

import functools
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence

import ahocorasick_rs
import numpy as np

from pipelines import class_names

RULES = f"1, Unicode {unicodedata.unidata_version}"
"""Names what decides which texts mention a name; part of the identity of what is made by it."""

_ASCII_WORD = re.compile(r"[^\W_]+", re.ASCII)
_BRACKETS = re.compile(r"\([^()]*\)")
# Scripts that put no spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Tai, Chinese, Hiragana, Bopomofo, Yi.
_UNSPACED = (
    "\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u3005-\u3007\u3040-\u309f\u3100-\u312f\u31a0-\u31bf"
    "\u3400-\u9fff\ua000-\ua4cf\ua9e0-\ua9ff\uaa60-\uaadf\uf900-\ufaff\U00020000-\U0003ffff"
)
# A run of Katakana is a word, wherever it begins and ends.
_KATAKANA = "\u30a0-\u30ff\u31f0-\u31ff"
# Characters that do not show and divide no words: soft hyphen, joiners of words and of signs, variation selectors.
_UNSEEN = dict.fromkeys([0x00AD, 0x200D, 0x2060, 0xFEFF, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])

Phrase = tuple[str, ...]
"""Words that follow one another."""


def words(text: str) -> Phrase:
    """Returns the words of a text without case and plural: `Golden_Retrievers.jpg` is `golden retriever jpg`.

    In scripts that put no spaces between words, each character with its marks counts as a word.
    """
    if text.isascii():
        found = _ASCII_WORD.findall(text.lower())
    else:
        plain = unicodedata.normalize("NFKC", text.translate(_UNSEEN)).casefold()
        found = _any_word().findall(unicodedata.normalize("NFKC", plain))
    return tuple([_singular(word) for word in found])


@functools.cache
def _any_word() -> re.Pattern[str]:
    """Returns what matches a word of any script; accents and vowel signs belong to the letter before them."""
    marks = "".join(char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char)[0] == "M")
    spaced = rf"[^\W_{_UNSPACED}{_KATAKANA}]"
    return re.compile(f"[{_UNSPACED}][{marks}]*|[{_KATAKANA}][{_KATAKANA}{marks}]*|(?:{spaced}[{marks}]*)+")


def _singular(word: str) -> str:
    """Returns the form that a word shares with its plural; no word by itself, such as `cooky`, `octopu`."""
    if word.endswith("uses") and word[-5:-4] not in ("a", "o"):
        # Buses are of a bus, houses of a house.
        word = word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if len(word) > 3 and word.endswith("ie"):
        return word[:-2] + "y"
    return word[:-1] if word.endswith(("xe", "che", "she", "sse", "zze")) else word


def phrase(name: str) -> Phrase:
    """Returns the words by which a text mentions a name: those outside of brackets."""
    return words(_BRACKETS.sub(" ", name))


def synonyms(name: str) -> list[Phrase]:
    """Returns the words of each synonym of a class name, which commas separate, without text in brackets."""
    return list(named_synonyms(name))


def named_synonyms(name: str) -> dict[Phrase, str]:
    """Returns the different synonyms of a class name as they are written, by their words; text in brackets is none."""
    found: dict[Phrase, str] = {}
    for part in class_names.synonyms(_BRACKETS.sub(" ", name)):
        if own := words(part):
            found.setdefault(own, part)
    return found


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


class Names:
    """Finds the names of classes in texts, in time that depends on the text alone: an Aho-Corasick automaton.

    Of names that overlap in a text, the one that begins first counts, and of those the longest: a `hot dog` is no dog.
    `Mentions` takes them all.

    Attributes:
        names: the N synonyms as they are written, those of a class one after another.
        labels: the class of each, int32 `[N]`, ascending.
        classes: C.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Prepares the names of C classes; commas separate synonyms, and text in brackets is not looked for."""
        self.classes = len(names)
        self.names: list[str] = []
        labels: list[int] = []
        owners: dict[Phrase, list[int]] = {}
        for label, name in enumerate(names):
            for own, synonym in named_synonyms(name).items():
                owners.setdefault(own, []).append(len(labels))
                self.names.append(synonym)
                labels.append(label)
        self.labels, self._labels = np.array(labels, np.int32), labels
        self._owners = list(owners.values())
        self._automaton = ahocorasick_rs.AhoCorasick(
            [_bounded(own) for own in owners],
            matchkind=ahocorasick_rs.MatchKind.LeftmostLongest,
            store_patterns=False,
        )

    def find(self, text: str) -> list[int]:
        """Returns the names in a text as places in `names`, each once, ascending; one of two classes is there twice."""
        found = self._automaton.find_matches_as_indexes(_bounded(words(text)))
        return sorted({place for own, _, _ in found for place in self._owners[own]}) if found else []

    def classes_of(self, places: Iterable[int]) -> list[int]:
        """Returns the classes of some names, each once, ascending."""
        return sorted({self._labels[place] for place in places})


def _bounded(own: Phrase) -> str:
    """Returns words with a space before and after each, so that names next to each other share none."""
    return f" {'  '.join(own)} " if own else ""
