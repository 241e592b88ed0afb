"""Shows the memory rows nearest to an image, a text, a row of the memory or a vector: `web-memory search`.

    web-memory search --config=configs/demo.py --image=x.jpg
    web-memory search --config=configs/demo.py --text="a red bird" --k=20
    web-memory search --config=configs/demo.py --id=1099511627783 --html=page.html
    web-memory search --config=configs/demo.py --vector=x.npy

Images are embedded as the memory's keys were, texts by an encoder that shares their space, if the config has one.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from configs.base import Config
from pipelines import options, progress, storage
from pipelines.errors import UserError

if TYPE_CHECKING:
    from index.searching.page import Tile
    from index.searching.queries import Query

_VALUES: dict[str, tuple[Any, str]] = {
    "image": ("", "image file to search for"),
    "text": ("", "text to search for"),
    "id": (-1, "memory row to search for; the row itself is left out"),
    "vector": ("", ".npy file with a vector of the keys' encoder to search for"),
    "k": (10, "number of rows to show (10)"),
    "html": ("", "page to write, with the pictures"),
}


def run(config: Config, image: str, text: str, id: int, vector: str, k: int, html: str) -> None:
    """Searches and shows the rows found.

    Raises:
        UserError: if a flag is wrong, there is no index, or a row that it finds has been replaced since it was built.
    """
    from index.searching import page, queries, rows
    from index.store.indexed_memory import in_published, open_memory
    from index.store.reader import Index
    from pipelines.sources import pictures

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if bool(image) + bool(text) + bool(vector) + (id >= 0) != 1:
        raise UserError("give one of --image=FILE, --text=TEXT, --id=ID and --vector=FILE")
    if k < 1:
        raise UserError(f"--k={k}: must be at least 1")
    load = pictures.Pictures(config.memory, config.places.data, config.embed).load

    def find(index: Index) -> "tuple[str, Query, list[Tile]]":
        memory = open_memory(config.places.memory, index)
        if image:
            query = queries.of_image(image, config.encoders, config.embed, index)
        elif text:
            query = queries.of_text(text, config.encoders, config.embed, index)
        elif vector:
            query = queries.of_vector(vector, index)
        else:
            query = queries.of_row(id, memory, load)
        ids, scores = rows.find(index, query, k)
        found = zip(rows.read(memory, ids), scores.tolist(), strict=True)
        tiles = [rows.tile(row, score, load if html else None) for row, score in found]
        return f"nearest to {query.title}, of {index.rows:,} rows", query, tiles

    title, query, tiles = in_published(config.places.index, find)
    _print(title, tiles)
    if html:
        with storage.atomic_write(html) as file:
            file.write(page.render(title, rows.data_url(query.picture), tiles).encode())
        progress.say(f"wrote {html}")


def _print(title: str, tiles: "Sequence[Tile]") -> None:
    rows = [
        (str(rank), f"{tile.score:.4f}", tile.caption, tile.place, str(tile.id)) for rank, tile in enumerate(tiles, 1)
    ]
    progress.table(title, ("rank", "score", "caption", "from", "id"), rows, left=("caption", "from"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, values=_VALUES)


if __name__ == "__main__":
    sys.exit(main())
