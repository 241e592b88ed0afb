import gzip
import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.filtering.unwanted import opt_out
from pipelines.filtering.unwanted.opt_out import OptOut


def _load(path, text):
    path.write_text(text)
    return OptOut.load(str(path))


def _digests(*parts):
    return np.frombuffer(b"".join(parts), "S32")


def test_entries_are_urls_and_digests_in_any_case(tmp_path):
    image, other = hashlib.sha256(b"image").digest(), hashlib.sha256(b"other").digest()
    text = f"# a comment\n\n  http://host/a\n{image.hex().upper()}\r\nhttps://host/x#part\n"
    listed = _load(tmp_path / "list.txt", text + f"{image.hex()}\n")
    assert len(listed) == 3
    urls = ["http://host/a", None, "http://host/other", "https://host/x#part", "https://host/x", "https://host/", ""]
    found = listed.matches(urls, _digests(other, image, image, other, other, other, other))
    assert found.tolist() == [True, True, True, True, True, False, False]
    assert listed.names("http://host/a", other) and listed.names(None, image) and not listed.names("http://b", other)


def test_a_byte_order_mark_is_no_part_of_an_entry(tmp_path):
    path = tmp_path / "list.txt"
    for data in (b"\xef\xbb\xbfhttp://host/a\r\n", gzip.compress(b"\xef\xbb\xbfhttp://host/a")):
        path.write_bytes(data)
        assert OptOut.load(str(path)).names("http://host/a", bytes(32))
    for encoding in ("utf-16", "utf-16-le"):
        path.write_bytes("http://host/a\n".encode(encoding))
        with pytest.raises(UserError, match="list.txt, line 1: is not UTF-8 text"):
            OptOut.load(str(path))


@pytest.mark.parametrize("url", ["pkg:npm/cat@1.0#cat.png", "data:image/png,x", "urn:isbn:1", "S3+v-1.x:a", "gs://b/a"])
def test_urls_have_any_scheme(tmp_path, url):
    listed = _load(tmp_path / "list.txt", f"{url}\n")
    assert listed.matches([url, f"{url}x"], _digests(bytes(32), bytes(32))).tolist() == [True, False]


def test_digests_with_zeros_at_the_end_are_told_apart(tmp_path):
    zero, ends, one = bytes(32), bytes([7] * 31 + [0]), bytes([7] * 31 + [1])
    listed = _load(tmp_path / "list.txt", f"{ends.hex()}\n{zero.hex()}\n")
    assert listed.matches([None] * 3, _digests(zero, ends, one)).tolist() == [True, True, False]
    assert listed.names(None, zero) and listed.names("http://a", ends) and not listed.names(None, one)


def test_an_empty_list_names_nothing(tmp_path):
    listed = _load(tmp_path / "list.txt", "# nobody yet\n")
    assert len(listed) == 0 and not listed.names("http://a/", bytes(32))
    assert listed.matches([], _digests()).tolist() == []


@pytest.mark.parametrize(
    "line,words",
    [
        (b"www.host/image.jpg", "'www.host/image.jpg' is neither a URL nor"),
        (b"http://host/a http://host/b", "'http://host/a http://host/b' is neither"),
        (b"abcdef0123", "'abcdef0123' is neither"),
        (b"1http://host/a", "'1http://host/a' is neither"),
        (b"sha256:" + b"0" * 64, "'sha256:0{64}' is neither"),
        (b"pkg:", "'pkg:' is neither"),
        (b"http://" + b"x" * 70_000, "is longer than 65,536 bytes"),
        (b"http://host/\xff", "is not UTF-8"),
        ("http://host/\u2028http://host/b".encode(), "'http://host/.*' is neither"),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, words):
    path = tmp_path / "list.txt"
    path.write_bytes(b"# first\nhttp://fine/\n" + line + b"\nhttp://fine/2\n")
    with pytest.raises(UserError, match=f"list.txt, line 3: {words}"):
        OptOut.load(str(path))


def test_broken_compression_is_named(tmp_path):
    path = tmp_path / "list.txt.gz"
    path.write_bytes(gzip.compress(b"http://fine/\n" * 1000)[:-9])
    with pytest.raises(UserError, match=r"list.txt.gz: cannot be read to its end, it breaks off after line \d+"):
        OptOut.load(str(path))
    with pytest.raises(UserError, match="none.txt: no such file"):
        OptOut.load(str(tmp_path / "none.txt"))


@given(st.lists(st.binary(min_size=32, max_size=32)), st.lists(st.binary(min_size=32, max_size=32)))
def test_matches_equal_a_set(listed, asked):
    asked = asked + listed[::2]
    found = OptOut(_digests(*listed)).matches([None] * len(asked), _digests(*asked))
    assert found.tolist() == [key in set(listed) for key in asked]


EQUAL = [
    ("https://img.example/a.jpg", "https://img.example/a.jpg"),
    ("https://IMG.example/b.jpg", "https://img.example/b.jpg"),
    ("https://img.example/caf%C3%A9.jpg", "https://img.example/caf\u00e9.jpg"),
    ("https://img.example/d%20e.jpg", "https://img.example/d e.jpg"),
    ("https://img.example:443/f.jpg", "https://img.example/f.jpg"),
    ("https://img.example/g.jpg", "https://img.example/g.jpg#top"),
    ("https://img.example/x/../h.jpg", "https://img.example/h.jpg"),
    ("https://img.example/i%2d.jpg", "https://img.example/i-.jpg"),
]


@pytest.mark.parametrize("ours, theirs", [*EQUAL, *((theirs, ours) for ours, theirs in EQUAL)])
def test_urls_are_compared_in_their_normal_form(tmp_path, ours, theirs):
    listed = _load(tmp_path / "list.txt", f"{theirs}\n")
    assert listed.matches(
        [ours, f"{ours}x" if "#" not in ours else "https://h/"], _digests(bytes(32), bytes(32))
    ).tolist() == [
        True,
        False,
    ]
    # A list of digests may have been made of the URL as it was.
    raw = _load(tmp_path / "digests.txt", f"{hashlib.sha256(ours.encode()).hexdigest()}\n")
    assert raw.names(ours, bytes(32)) and raw.entry_of(ours, bytes(32)) == ours


def test_lines_that_rows_do_not_meet(tmp_path):
    path = tmp_path / "list.txt"
    listed = _load(path, "# x\nhttp://h/a\nHTTP://H/b\nhttp://h/c\nhttp://h/a\n")
    rows = pa.table({"content_key": pa.array([bytes(32)], pa.binary(32)), "url": ["http://h/b"], "metadata": ["{}"]})
    found, met = listed.met(rows)
    assert found.tolist() == [True] and len(met) == 1
    unmet = listed.unmet(met)
    assert opt_out.first_lines(str(path), unmet, 9) == ["http://h/a", "http://h/c", "http://h/a"]
    assert opt_out.first_lines(str(path), unmet, 1) == ["http://h/a"]
