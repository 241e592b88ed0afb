"""The page that `web-memory leaks` writes: memory rows beside queries, in one file that loads nothing.

Captions, names and URLs are untrusted: everything is escaped, and nothing becomes a link.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jinja2
from PIL import Image

from pipelines.errors import UserError
from pipelines.filtering.leaks import Pair, Row
from pipelines.sources import pictures

_SIDE = 160

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
  body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #1c1f24 }
  main { display: grid; grid-template-columns: repeat(auto-fill, 340px); gap: 1.5rem }
  article { border: 1px solid #e5e7eb; padding: .5rem; overflow-wrap: anywhere }
  .pair { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem }
  figure { margin: 0 }
  .picture { height: 160px; display: grid; place-items: center; background: #f3f4f6 }
  img { max-width: 160px; max-height: 160px }
  .missing { padding: .5rem }
  small, .missing { display: block; color: #6b7280 }
</style>
<h1>{{ title }}</h1>
<p>{{ how }}</p>
{% for part in parts %}
<h2>{{ part.title }}</h2>
<main>
{% for pair in part.pairs %}
<article>
  <b>cosine {{ "%.4f" | format(pair.cosine) }}, pixels {{ pair.pixels }}</b>
  <div class="pair">
  {% for tile in pair.tiles %}
    <figure>
      <div class="picture">
        {% if tile.picture %}<img src="{{ tile.picture }}" alt="{{ tile.caption }}">
        {% else %}<span class="missing">{{ tile.missing }}</span>{% endif %}
      </div>
      <figcaption>{{ tile.caption }}<small>{{ tile.place }}</small><small>{{ tile.folder }} {{ tile.id }}</small>
      </figcaption>
    </figure>
  {% endfor %}
  </div>
</article>
{% else %}<p>none</p>
{% endfor %}
</main>
{% endfor %}
</html>
"""

# Returns the picture of a row, by its folder, container and member; a `UserError` if it cannot be read.
Load = Callable[[str, str, str], Image.Image]


@dataclasses.dataclass(frozen=True)
class _Tile:
    folder: str
    id: int
    caption: str
    place: str
    picture: str = ""
    missing: str = ""


@dataclasses.dataclass(frozen=True)
class Part:
    """Pairs under one headline."""

    title: str
    pairs: Sequence[Pair]


def render(title: str, how: str, parts: Sequence[Part], load: Load) -> str:
    """Returns the page.

    Args:
        title: its headline.
        how: a sentence below it.
        parts: what it shows.
        load: reads the pictures; of one that it cannot read, the page says why.
    """
    shown = [
        {
            "title": part.title,
            "pairs": [
                {
                    "cosine": pair.cosine,
                    "pixels": pixels_text(pair),
                    "tiles": [_tile(pair.row, load), _tile(pair.query, load)],
                }
                for pair in part.pairs
            ],
        }
        for part in parts
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(title=title, how=how, parts=shown)


def pixels_text(pair: Pair) -> str:
    """Returns the similarity of a pair's pixels as text."""
    return "not compared" if pair.pixels is None else f"{pair.pixels:.4f}"


def _tile(row: Row, load: Load) -> _Tile:
    tile = _Tile(row.folder, row.id, row.caption, row.url or f"{row.container}/{row.member}")
    try:
        picture = load(row.folder, row.container, row.member)
    except UserError as error:
        return dataclasses.replace(tile, missing=str(error))
    return dataclasses.replace(tile, picture=pictures.data_url(picture, _SIDE))
