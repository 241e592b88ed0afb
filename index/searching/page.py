"""The page that `index.search` writes: pictures beside their captions, in one file that loads nothing else.

Captions and URLs are untrusted: everything is escaped, and only http(s) URLs become links.
"""

import dataclasses
from collections.abc import Sequence

import jinja2

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
  body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #1c1f24 }
  main { display: grid; grid-template-columns: repeat(auto-fill, 200px); gap: 1.5rem 1rem }
  figure { margin: 0; overflow-wrap: anywhere }
  .picture { width: 200px; height: 200px; display: grid; place-items: center; background: #f3f4f6 }
  img { max-width: 200px; max-height: 200px }
  .missing { padding: 1rem; color: #6b7280 }
  small { display: block; color: #6b7280 }
</style>
<h1>{{ title }}</h1>
{% if asked %}<p><img src="{{ asked }}" alt="the query"></p>{% endif %}
<main>
{% for tile in tiles %}
<figure>
  <div class="picture">
    {% if tile.picture %}<img src="{{ tile.picture }}" alt="{{ tile.caption }}">
    {% else %}<span class="missing">{{ tile.caption or "no caption" }}</span>{% endif %}
  </div>
  <figcaption>
    <b>{{ loop.index }}</b> {{ "%.4f" | format(tile.score) }} {{ tile.caption if tile.picture }}
    <small>{% if tile.is_link %}<a href="{{ tile.place }}">{{ tile.place }}</a>{% else %}{{ tile.place }}{% endif %}
    </small>
    <small>{{ tile.id }}</small>
    {% if tile.missing %}<small>{{ tile.missing }}</small>{% endif %}
  </figcaption>
</figure>
{% endfor %}
</main>
</html>
"""


@dataclasses.dataclass(frozen=True)
class Tile:
    """A row that was found.

    Attributes:
        id: of the row.
        score: of the row.
        caption: empty for none.
        place: its URL, or the file it came from.
        picture: a data URL; empty if it is not shown.
        missing: why the picture cannot be shown.
    """

    id: int
    score: float
    caption: str
    place: str
    picture: str = ""
    missing: str = ""

    @property
    def is_link(self) -> bool:
        """Whether a browser may follow the place."""
        return self.place.lower().startswith(("http://", "https://"))


def render(title: str, asked: str, tiles: Sequence[Tile]) -> str:
    """Returns the page.

    Args:
        title: its headline.
        asked: data URL of the query's picture; empty for none.
        tiles: the rows, nearest first.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(title=title, asked=asked, tiles=tiles)
