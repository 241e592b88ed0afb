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
    ],
)
def test_a_line_is_a_name(tmp_path, data, names):
    for path, packed in ((tmp_path / "names.txt", data), (tmp_path / "names.txt.gz", gzip.compress(data))):
        path.write_bytes(packed)
        assert class_names.read(str(path)) == names


def test_what_is_no_text_is_named(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"a\ncaf\xe9\n")
    with pytest.raises(UserError, match="names.txt, line 2: is not UTF-8 text"):
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
