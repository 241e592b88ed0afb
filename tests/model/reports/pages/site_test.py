"""The folder of pages: what each loads, and what it does to a stranger's text."""

import base64
import hashlib
import html.parser
import re

import pytest

from model.reports import tables
from model.reports.grid import Grid
from model.reports.pages import site

HOSTILE = "</script><script>alert(1)</script> \"'& \u202e\u0000<img src=x onerror=alert(1)>"


class _Parser(html.parser.HTMLParser):
    """Elements with their attributes, and the text of scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.codes, self._inside = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else None

    def handle_data(self, data):
        if self._inside:
            self.codes.append((self._inside, data))
            self._inside = None


GRID = Grid("A title", ("class", "accuracy"), [(HOSTILE, "12.5"), ("x" * 10_000, "-")])
FACTS = {
    "headline": HOSTILE,
    "lead": HOSTILE,
    "doubts": [HOSTILE],
    "heads": [(HOSTILE, HOSTILE)],
    "data": [(HOSTILE, HOSTILE)],
    "settings": [(HOSTILE, HOSTILE)],
    "all_settings": HOSTILE,
    "commands": [HOSTILE],
    "tables": [tables.table(GRID)],
    **{name: tables.table(GRID) for name in ("encoders", "times", "versions")},
}


def _page(tmp_path):
    return site.Site(str(tmp_path), HOSTILE, ("data", "index")).render("index", FACTS)


def test_a_page_runs_its_own_code_and_loads_nothing(tmp_path):
    page = _Parser(_page(tmp_path))
    (policy,) = [attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv")]
    named = {part.split()[0]: part.split()[1:] for part in policy.split("; ")}
    assert named["default-src"] == ["'none'"]
    for tag, code in page.codes:
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in named[f"{tag}-src"]
    assert [tag for tag, _ in page.codes] == ["style", "script"]
    assert not [attributes for _, attributes in page.tags if "src" in attributes or "style" in attributes]
    assert [attributes["href"] for tag, attributes in page.tags if tag == "link"] == ["data:,"]


def test_a_strangers_text_is_escaped_cut_and_keeps_its_direction(tmp_path):
    page = _page(tmp_path)
    assert "<script>alert" not in page and "<img" not in page
    assert not re.search("[\u202e\u0000]", page)
    assert "x" * 119 + "…" in page and "x" * 120 not in page


def test_the_navigation_has_the_pages_that_there_are(tmp_path):
    links = [attributes for tag, attributes in _Parser(_page(tmp_path)).tags if tag == "a"]
    assert [link["href"] for link in links] == ["#main", "index.html", "data.html"]
    assert links[1]["aria-current"] == "page" and "aria-current" not in links[2]


def test_a_page_is_written_into_the_folder(tmp_path):
    path = site.Site(str(tmp_path / "report"), "run", ("index",)).write("index", {**FACTS, "headline": "x"})
    assert path == str(tmp_path / "report/index.html")
    assert "<h1>x</h1>" in (tmp_path / "report/index.html").read_text()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n\t b ", "a b"),
        ("abc\u202edef", "abc\ufffddef"),
        ("\x1b[31mred", "\ufffd[31mred"),
        ("\ud800", "\ufffd"),
        ("a" * 11, "a" * 9 + "…"),
        ("👩‍🚀", "👩‍🚀"),
    ],
)
def test_plain_text(text, shown):
    assert site.plain(text, 10) == shown
