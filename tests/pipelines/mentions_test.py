import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.concepts import Reference
from pipelines import mentions
from pipelines.mentions import Mentions, Names


def test_words_have_no_case_and_no_plural():
    assert mentions.words("Golden_Retrievers.jpg, BERRIES; glass\u00a0\uff21") == (
        *("golden", "retriever", "jpg", "berry", "glass", "a"),
    )


def test_a_name_of_signs_alone_has_no_words():
    assert mentions.synonyms(" , (only brackets), --") == []
    assert mentions.phrase("(only brackets)") == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("two School Buses, a cat", {("school", "bus"), ("cat",)}),
        ("a school bus", {("school", "bus")}),
        ("school, bus", {("school", "bus")}),
        ("a bus of the school; cats", {("cat",)}),
        ("concat", set()),
        ("", set()),
    ],
)
def test_a_phrase_is_whole_words_one_after_another(text, found):
    assert Mentions([("school", "bus"), ("cat",), ()]).of(text) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("Box", "boxes"), ("axe", "AXES"), ("ostrich", "ostriches"), ("avalanche", "avalanches"), ("dish", "dishes")),
        *(("glass", "glasses"), ("berry", "berries"), ("cookie", "cookies"), ("collie", "collies"), ("bus", "buses")),
        *(("octopus", "octopuses"), ("house", "houses"), ("emu", "emus"), ("mouse", "Mouse")),
        *(("\ufb01sh", "fish"), ("Stra\u00dfe", "STRASSE"), ("E\u0301cole", "\u00e9cole"), ("gol\u00adden", "golden")),
    ],
)
def test_words_are_one_whatever_their_number_case_and_form(one, other):
    assert mentions.words(one) == mentions.words(other) != ()


def test_characters_are_words_where_no_spaces_are_written():
    assert mentions.words("\u91d1\u6bdb\u72acdog") == ("\u91d1", "\u6bdb", "\u72ac", "dog")
    # A vowel sign belongs to its consonant; a run of Katakana is a word.
    assert mentions.words("\u0e01\u0e34\u0e19") == ("\u0e01\u0e34", "\u0e19")
    assert mentions.words("\u8d64\u3044\u30d0\u30b9\u304c") == ("\u8d64", "\u3044", "\u30d0\u30b9", "\u304c")
    assert mentions.words("\u0915\u0941\u0924\u094d\u0924\u093e") == ("\u0915\u0941\u0924\u094d\u0924\u093e",)


CLASSES = [
    *("dog, canine", "hot dog", "tiger (cat)", "tiger shark", "shark", "\u91d1\u6bdb\u72ac", "\u72ac"),
    *("crane (bird)", "crane (machine), derrick", "(only this)", ""),
]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("two hot dogs", {1}),
        ("hot dogs and a Dog", {0, 1}),
        ("a hot, hot canine", {0}),
        ("tiger tiger-shark", {2, 3}),
        ("shark tiger", {2, 4}),
        ("tiger sharks_sharks", {3, 4}),
        ("dogma, hotdog, bulldog", set()),
        ("\u4e00\u53ea\u91d1\u6bdb\u72ac\u5728\u8349\u5730\u4e0a", {5}),
        ("\u767d\u72ac", {6}),
        ("cranes", {7, 8}),
        ("only this (dog)", {0}),
        ("\ud800 dog", {0}),
        ("", set()),
    ],
)
def test_of_overlapping_names_the_first_and_longest_counts(text, found):
    names = Names(CLASSES)
    assert set(names.classes_of(names.find(text))) == found


def test_synonyms_are_counted_apart():
    names = Names(["dog, canine, Dogs", "x"])
    assert (names.names, names.labels.tolist(), names.classes) == (["dog", "canine", "x"], [0, 0, 1], 2)
    assert names.find("canine DOGS dog") == [0, 1] and Names([]).find("dog") == []


def test_equals_regular_expressions():
    random.seed(0)
    parts = ["cat", "box", "berry", "glass", "sea lion", "lion", "bus", "\u00e9cole", "a1", "cookie"]
    classes = [" ".join(pair) for pair in itertools.product(parts, ["", *parts[:6]])]
    names, reference = Names(classes), Reference(classes)
    forms = [*parts, "Cats", "boxes", "BERRIES", "glasses", "lions", "busses", "\u00c9coles", "cookies", "of", "seal"]
    seen = set()
    for _ in range(3000):
        text = "".join(random.choice(forms) + random.choice([" ", "-", ", ", "_", "", "\u00a0"]) for _ in range(8))
        found = names.classes_of(names.find(text))
        assert found == reference.find(text), text
        seen |= {*found}
    assert len(seen) > 60


@given(st.text(st.characters(), max_size=40), st.lists(st.text(st.characters(), max_size=12), max_size=5))
def test_any_text_and_any_name_are_read(text, classes):
    names = Names([*classes, "zebra crossing"])
    found = set(names.classes_of(names.find(f"{text} zebra\tCrossings")))
    assert len(classes) in found or any("zebra" in name.casefold() for name in classes)
    assert found - {len(classes)} <= {label for label, name in enumerate(classes) if mentions.synonyms(name)}
    # A synonym is in its name, which may have more words only in brackets.
    for name in classes:
        for phrase in mentions.synonyms(name) if "(" not in name else ():
            assert Mentions([phrase]).of(name) == {phrase}
