"""A folder of HTML pages that link to each other and load nothing: neither from the network nor from beside them.

Style and scripts are inside each page, and its content security policy names their digests, so that a page may be
opened from a disk, mailed, or served, and nothing that a stranger wrote into a caption can run. Templates escape all
text and take out what would change its direction; what may be long goes through `plain`.
"""

import base64
import hashlib
import importlib.resources
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from pipelines import storage
from pipelines.progress import counted

PAGES = {
    **{"index": "Results", "classes": "Classes", "gallery": "Gallery"},
    **{"training": "Training", "data": "Data", "ablations": "Ablations"},
}
"""The names of all pages that there may be, in the order of the navigation, and their titles there."""

_PACKAGE = "model.reports.pages"
_STYLE, _SCRIPT = "style.css", "report.js"
# Characters that change the order of those around them.
_BIDI = {*"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}
_REPLACEMENT = "\ufffd"
_MOST_CHARS = 300


def plain(text: str, most: int = _MOST_CHARS) -> str:
    """Returns a stranger's text as one short line, without characters that a browser would obey.

    Args:
        text: any.
        most: characters; a longer text ends in an ellipsis.
    """
    # Each character may be white space, so the first cut is generous.
    line = " ".join(text[: 4 * most].split())
    if len(line) > most or len(text) > 4 * most:
        line = line[: most - 1].rstrip() + "…"
    return str(harmless(line))


def harmless(value: Any) -> Any:
    """Returns a text without characters that a browser or terminal would obey; anything else as it is."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(_REPLACEMENT if _is_command(char) else char for char in value)


def _is_command(char: str) -> bool:
    return char in _BIDI or (unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t")


def _resource(name: str) -> str:
    return importlib.resources.files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Site:
    """The pages of one report.

    Attributes:
        folder: that the pages are written to.
        title: of the report, in the title of each page.
        pages: names of those that the report has, of `PAGES`.
    """

    def __init__(self, folder: str, title: str, pages: Sequence[str]) -> None:
        """Prepares the templates; writes nothing."""
        self.folder, self.title = folder, title
        self.pages = [name for name in PAGES if name in pages]
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("model.reports", "pages"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=harmless,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {"plain": plain, "counted": counted}

    def render(
        self, name: str, facts: Mapping[str, Any], scripts: Sequence[str] = (), styles: Sequence[str] = ()
    ) -> str:
        """Returns a page.

        Args:
            name: of the page, one of `pages`; its template is `{name}.html.j2`, which extends `base.html.j2`.
            facts: what the template shows. It escapes all text; what is in `<script type="application/json">` must go
                through the filter `tojson`.
            scripts: files beside the templates that run after `report.js`.
            styles: files beside the templates that follow `style.css`.
        """
        style, codes = "".join(map(_resource, (_STYLE, *styles))), [_resource(script) for script in (_SCRIPT, *scripts)]
        policy = (
            f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' data:; "
            f"style-src {_digest(style)}; script-src {' '.join(map(_digest, codes))}"
        )
        return self._environment.get_template(f"{name}.html.j2").render(
            **facts,
            policy=policy,
            style=Markup(style),  # noqa: S704
            scripts=[Markup(code) for code in codes],  # noqa: S704
            report=self.title,
            page=name,
            pages={page: PAGES[page] for page in self.pages},
        )

    def write(
        self, name: str, facts: Mapping[str, Any], scripts: Sequence[str] = (), styles: Sequence[str] = ()
    ) -> str:
        """Writes a page, see `render`, and returns its path."""
        path = storage.join(self.folder, f"{name}.html")
        with storage.atomic_write(path) as file:
            file.write(self.render(name, facts, scripts, styles).encode())
        return path
