"""Files of class names: how lines end, what is decoded, and what is refused."""

import gzip

import pytest

from pipelines import class_names
from pipelines.errors import UserError


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"tench\nn02\tgolden retriever\n", ["tench", "golden retriever"]),
        (b"\xef\xbb\xbf0\ta\tb \r\n c", ["b", "c"]),
        ("caf\u00e9\nline\u2028 and\x0bline\x85\n".encode(), ["caf\u00e9", "line\u2028 and\x0bline"]),
        (b"a\n\nb\n\n", ["a", "", "b", ""]),
        (b"", []),
        (b"\xef\xbb\xbf\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "b"]),
        ("a\x0cb\n\x1cc\u2029d\x85\n".encode(), ["a\x0cb", "c\u2029d"]),
    ],
)
def test_a_line_is_a_name(tmp_path, data, names):
    packed = gzip.compress(data)
    for name, whole in (("names.txt", data), ("names.txt.gz", packed), ("x", packed)):
        (tmp_path / name).write_bytes(whole)
        assert class_names.read(str(tmp_path / name)) == names


def test_what_is_no_text_is_named(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"a\ncaf\xe9\n")
    with pytest.raises(UserError, match="names.txt, line 2: is not UTF-8 text"):
        class_names.read(str(path))
    for data, problem in {
        "a\nK\u00f6nig\n".encode("latin-1"): "line 2: is not UTF-8 text",
        "a\nb\n".encode("utf-16"): "line 1: is not UTF-8 text",
        "a\nb\n".encode("utf-16-le"): r"line 1: is not UTF-8 text \(it has zero bytes\)",
        "a\nb\n".encode("utf-32"): "line 1: is not UTF-8 text",
        b"a\rb\rc\r": "line 1: has a carriage return in it",
        b"a\n\xed\xa0\x80\n": "line 2: is not UTF-8 text",
    }.items():
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"names.txt, {problem}"):
            class_names.read(str(path))
    packed = tmp_path / "names.txt.gz"
    packed.write_bytes(gzip.compress(b"a\n" * 100)[:-4])
    with pytest.raises(UserError, match="names.txt.gz: cannot be read"):
        class_names.read(str(packed))
    with pytest.raises(UserError, match="other.txt: no such file"):
        class_names.read(str(tmp_path / "other.txt"))


def test_synonyms_are_what_commas_separate():
    assert class_names.synonyms("goldfish, Carassius auratus") == ["goldfish", "Carassius auratus"]
    assert class_names.synonyms(" , red_dog,") == ["red_dog"]
    assert class_names.synonyms("") == []


@pytest.mark.parametrize(
    ("train", "others", "names", "words"),
    [
        ({1, 2, 3, 4, 5}, {1, 2}, (), "labels begin with 1; set first_label=1 of every source whose labels do, such"),
        ({3, 4}, (), "ab", "labels begin with 3; set first_label=3 of every source"),
        ({1, 2}, (), "abc", "class 0 ('a') has no training image, and every label up to 2 needs one: number the "),
        ({1, 2}, {0, 1}, "ab", "class 0 ('a') has no training image, and every label up to 2 needs one: "),
        ({1, 3}, (), (), "class 0 has no training image, and every label up to 3 needs one: "),
        ({0, 1, 3}, {1, 3}, "abcd", "class 2 ('c') has no training image, and every label up to 3 needs one: "),
        ({0, 1}, {7}, (), "class 2 has no training image, and every label up to 7 needs one: "),
        ({10**9}, {5}, (), "class 0 has no training image, and every label up to 1000000000 needs one: "),
        ({2, 0, 1}, {0, 2}, (), ""),
        ((), (), (), ""),
    ],
)
def test_numbers_that_no_training_image_has_are_said(train, others, names, words):
    found = class_names.gap(train, others, names)
    assert found.startswith(words) and bool(found) == bool(words)
