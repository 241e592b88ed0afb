import numpy as np
import pytest

from model.measures import relevance

NAMES = ["tabby, tabby cat", "Crane (bird)", "school bus", "strawberry", "glass", "gold-fish, Carassius auratus"]


@pytest.mark.parametrize(
    ("caption", "classes"),
    [
        ("A TABBY on the sofa", [0]),
        ("tabby's basket", [0]),
        ("school buses", [2]),
        ("school buss", []),
        ("two school bus drivers", [2]),
        ("a bus of the school", []),
        ("cranes over_the_water.jpg", [1]),
        ("strawberries and glasses", [3, 4]),
        ("a glass of strawberry", [3, 4]),
        ("gold fish; a goldfish", [5]),
        ("carassius  AURATUS", [5]),
        ("tabbycat", []),
        ("", []),
        (None, []),
    ],
)
def test_words_of_a_synonym_in_a_row_name_the_class(caption, classes):
    named = relevance.named_classes(["nothing", caption, "tabby"], NAMES)
    assert [code - len(NAMES) for code in named if 0 <= code - len(NAMES) < len(NAMES)] == classes
    assert named[-1] == 2 * len(NAMES)


def test_a_name_of_signs_alone_names_nothing():
    assert len(relevance.named_classes(["-- , ()"], ["--"])) == 0


def test_classes_of_one_name_are_all_named():
    assert relevance.named_classes(["a crane"], ["crane", "heron", "crane"]).tolist() == [0, 2]


def test_relevant_by_caption_or_by_label():
    named = relevance.named_classes(["a cat", "a dog", "dog and cat", "IMG_1.jpg"], ["cat", "dog"])
    neighbors, labels = np.array([[0, 1, 2, 3], [3, 2, 1, 0]]), np.array([0, 1])
    unlabelled = np.full(4, -1)
    expected = [[True, False, True, False], [False, True, True, False]]
    assert relevance.relevant(neighbors, labels, named, 2, unlabelled).tolist() == expected
    expected[1][0] = True
    assert relevance.relevant(neighbors, labels, named, 2, np.array([-1, -1, -1, 1])).tolist() == expected
    nothing = relevance.relevant(neighbors, labels, np.array([], np.int64), 2, unlabelled)
    assert not nothing.any()
