"""Which memory rows are about which class: by the words of their captions, or by their own labels.

It judges what attention does (`filter_quality`) and chooses memories for ablations. No head reads it.
"""

from collections.abc import Sequence

import numpy as np

from pipelines.mentions import Mentions, Phrase, synonyms


def named_classes(captions: Sequence[str | None], class_names: Sequence[str]) -> np.ndarray:
    """Finds the classes that captions name: all words of one of the class's synonyms, one after another.

    Args:
        captions: M texts.
        class_names: C names.

    Returns:
        Pairs of a caption m and a class c that it names, as m * C + c, int64, ascending; one for each match.
    """
    classes_of: dict[Phrase, list[int]] = {}
    for number, name in enumerate(class_names):
        for phrase in synonyms(name):
            classes_of.setdefault(phrase, []).append(number)
    mentions = Mentions(classes_of)
    found = []
    for row, caption in enumerate(captions):
        classes = {number for phrase in mentions.of(caption or "") for number in classes_of[phrase]}
        found += [row * len(class_names) + number for number in sorted(classes)]
    return np.array(found, np.int64)


def relevant(
    neighbors: np.ndarray, labels: np.ndarray, named: np.ndarray, num_classes: int, memory_labels: np.ndarray
) -> np.ndarray:
    """Tells which neighbours are about their query's class, bool `[N, K]`.

    Args:
        neighbors: rows of the memory, `[N, K]`.
        labels: of the queries, `[N]`.
        named: result of `named_classes` for the memory's captions.
        num_classes: C.
        memory_labels: of the memory's rows, int `[M]`, -1 for none, of the same classes as the queries.
    """
    wanted = neighbors.astype(np.int64) * num_classes + labels[:, None]
    by_caption = np.zeros(neighbors.shape, bool)
    if len(named):
        by_caption = named[np.minimum(np.searchsorted(named, wanted), len(named) - 1)] == wanted
    return by_caption | (memory_labels[neighbors] == labels[:, None])
