import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.filtering.unwanted.urls import normal


@pytest.mark.parametrize(
    "url, expected",
    [
        # Section 6.2.2 of RFC 3986, and its subsections.
        ("example://a/b/c/%7Bfoo%7D", "example://a/b/c/%7Bfoo%7D"),
        ("eXAMPLE://a/./b/../b/%63/%7bfoo%7d", "example://a/b/c/%7Bfoo%7D"),
        ("HTTP://www.EXAMPLE.com/", "http://www.example.com/"),
        ("http://h/%3a%2f", "http://h/%3A%2F"),
        ("http://h/%7Euser/%41%2D%2e%5f", "http://h/~user/A-._"),
        # Section 6.2.3.
        ("http://example.com", "http://example.com/"),
        ("http://example.com/", "http://example.com/"),
        ("http://example.com:/", "http://example.com/"),
        ("http://example.com:80/", "http://example.com/"),
        ("https://example.com:0443/x?y", "https://example.com/x?y"),
        ("https://example.com:80/", "https://example.com:80/"),
        # Section 5.4, resolved against http://a/b/c/d;p?q by joining.
        ("http://a/b/c/./g", "http://a/b/c/g"),
        ("http://a/b/c/g/", "http://a/b/c/g/"),
        ("http://a/b/c/.", "http://a/b/c/"),
        ("http://a/b/c/..", "http://a/b/"),
        ("http://a/b/c/../..", "http://a/"),
        ("http://a/b/c/../../../../g", "http://a/g"),
        ("http://a/b/c/g.", "http://a/b/c/g."),
        ("http://a/b/c/..g", "http://a/b/c/..g"),
        ("http://a/b/c/./g/.", "http://a/b/c/g/"),
        ("http://a/b/c/g;x=1/../y", "http://a/b/c/y"),
        ("http://a/b/c/g?y/../x", "http://a/b/c/g?y/../x"),
        ("http://a/%2e%2E/b", "http://a/b"),
        # Other characters than URLs have.
        ("https://h/d e.jpg", "https://h/d%20e.jpg"),
        ("https://h/café.jpg?ü", "https://h/caf%C3%A9.jpg?%C3%BC"),
        ("https://h/100%.jpg", "https://h/100%25.jpg"),
        ("https://h/\ud800", "https://h/%ED%A0%80"),
        # Hosts.
        ("http://Bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://b%C3%BCcher.example/", "http://xn--bcher-kva.example/"),
        ("http://XN--BCHER-KVA.example/", "http://xn--bcher-kva.example/"),
        ("http://ｅｘ.example/", "http://ex.example/"),
        ("http://[2001:DB8::0:1]:80/", "http://[2001:db8::1]/"),
        # What is not fetched: fragment and login, of the schemes that fetch.
        ("http://h/x#top", "http://h/x"),
        ("http://user:secret@h/x", "http://h/x"),
        ("gs://bucket/a#1", "gs://bucket/a#1"),
        ("pkg:npm/cat@1.0#cat.png", "pkg:npm/cat@1.0#cat.png"),
        ("URN:isbn:1", "urn:isbn:1"),
        ("data:image/png,x", "data:image/png,x"),
        # What is no URL.
        ("a/../b", "a/../b"),
        ("", ""),
        ("//h/x", "//h/x"),
    ],
)
def test_the_normal_form(url, expected):
    assert normal(url) == expected
    assert normal(expected) == expected


@pytest.mark.parametrize(
    "one, other",
    [
        ("http://h/a", "https://h/a"),
        ("http://h/a", "http://h/A"),
        ("http://h/a", "http://h/a/"),
        ("http://h/a%2Fb", "http://h/a/b"),
        ("http://h/a?", "http://h/a"),
        ("http://h/a?x=1+2", "http://h/a?x=1%202"),
        ("http://h//a", "http://h/a"),
        ("http://h/a", "http://h:8080/a"),
    ],
)
def test_other_urls_stay_others(one, other):
    assert normal(one) != normal(other)


@given(st.text() | st.from_regex(r"(?:https?|gs|pkg):(?://)?[a-z%A-Z@:.\[\]]*(?:/[.%a-zA-Z0-9 é]*)*(?:\?.*)?(?:#.*)?"))
def test_any_text_has_one_normal_form(text):
    assert normal(normal(text)) == normal(text)
