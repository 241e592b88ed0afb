import pytest

from pipelines.embedding.names import class_texts


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("goldfish, Carassius auratus", ["goldfish", "Carassius auratus"]),
        ("airport_terminal", ["airport terminal"]),
        ("pay-phone", ["pay-phone"]),
        (" , ", [" , "]),
        ("", [""]),
    ],
)
def test_phrases(name, texts):
    assert class_texts.phrases(name) == texts


def test_prompts_take_names_as_they_are():
    found = class_texts.prompted(["a {} b", "{0}"], ["photo of {}.", "{}"])
    assert found == ["photo of a {} b.", "a {} b", "photo of {0}.", "{0}"]


def test_only_classes_with_synonyms_are_counted_each_phrase_once():
    names = ["Crane (bird), heron", "dog", "herons, egret", "--, ..", "big cat, cat"]
    assert class_texts.to_count(names) == [("big", "cat"), ("cat",), ("crane",), ("egret",), ("heron",)]


@pytest.mark.parametrize(
    ("counts", "best"),
    [
        ({}, (0, "crane (bird)")),
        ({("heron",): 1}, (1, "heron")),
        ({("heron",): 2, ("crane",): 2}, (0, "crane (bird)")),
        ({("heron",): 2, ("crane",): 1, ("big", "bird"): 3}, (2, "big bird")),
    ],
)
def test_the_most_mentioned_synonym_wins_and_the_first_of_ties(counts, best):
    assert class_texts.most_mentioned("crane (bird), heron, big_bird", counts) == best
