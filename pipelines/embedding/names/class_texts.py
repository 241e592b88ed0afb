"""The texts that stand for a class: its synonyms or the one that captions mention most, put into prompts."""

from collections.abc import Mapping, Sequence

from pipelines import class_names, mentions
from pipelines.mentions import Phrase


def phrases(name: str) -> list[str]:
    """Returns the texts that are embedded for a class: its synonyms with spaces for `_`, or the name without any."""
    texts = [part.replace("_", " ").strip() for part in class_names.synonyms(name)]
    return [text for text in texts if text] or [name]


def prompted(texts: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Returns each text in each prompt, in place of its `{}`."""
    return [prompt.replace("{}", text) for text in texts for prompt in prompts]


def to_count(names: Sequence[str]) -> list[Phrase]:
    """Returns the phrases that decide between the synonyms of a class, in order, each once."""
    several = [texts for texts in map(phrases, names) if len(texts) > 1]
    return sorted({phrase for texts in several for phrase in map(mentions.phrase, texts) if phrase})


def most_mentioned(name: str, counts: Mapping[Phrase, int]) -> tuple[int, str]:
    """Returns number and text of the synonym that most captions mention; the first of ties and of those without any.

    Args:
        name: of the class.
        counts: captions that mention each phrase of `to_count`.
    """
    texts = phrases(name)
    mentioned = [counts.get(mentions.phrase(text), 0) for text in texts]
    best = mentioned.index(max(mentioned))
    return best, texts[best]
