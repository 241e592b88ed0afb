"""Shows the memory rows nearest to an image, a text, a row of the memory or a vector: `web-memory search`.

    web-memory search --config=configs/demo.py --image=x.jpg
    web-memory search --config=configs/demo.py --text="a red bird" --k=20
    web-memory search --config=configs/demo.py --id=1099511627783 --html=page.html
    web-memory search --config=configs/demo.py --vector=x.npy
    web-memory search --config=configs/demo.py --text="a red bird" --where="similarity>=0.3 and LICENSE=cc0"
    cat texts.txt | web-memory search --config=configs/demo.py --batch=text

Images are embedded as the memory's keys were, texts by an encoder that shares their space, if the config has one.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from configs.base import Config
from pipelines import options, progress, storage
from pipelines.errors import UserError, nearest

if TYPE_CHECKING:
    from index.searching.page import Tile

_VALUES: dict[str, tuple[Any, str]] = {
    "image": ("", "image file to search for"),
    "text": ("", "text to search for"),
    "id": ("", "memory row to search for; the row itself is left out"),
    "vector": ("", ".npy file with a vector of the keys' encoder to search for"),
    "where": ("", "filter of the rows: similarity>=0.3 and LICENSE=cc0 (docs/filters.md)"),
    "batch": ("", "text, image, id or vector: reads queries of this kind from standard input, one a line"),
    "k": (10, "number of rows to show (10)"),
    "html": ("", "page to write, with the pictures"),
}


def run(config: Config, image: str, text: str, id: str, vector: str, where: str, batch: str, k: int, html: str) -> None:
    """Searches and shows the rows found.

    Raises:
        UserError: if a flag is wrong, there is no index, or a row that it finds has been replaced since it was built.
    """
    from index.searching import page, rows
    from index.searching.finder import KINDS, Finder

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = {"image": image, "text": text, "id": id, "vector": vector}
    asked = [(kind, value) for kind, value in given.items() if value != ""]
    if len(asked) + bool(batch) != 1:
        raise UserError("give one of --image=FILE, --text=TEXT, --id=ID, --vector=FILE and --batch=KIND")
    if batch and (html or batch not in KINDS):
        wrong = f"--html={html}: is for one query" if html else f"--batch={batch}: unknown; {nearest(batch, KINDS)}"
        raise UserError(wrong)
    finder = Finder(config)
    for kind, value in _lines(batch) if batch else asked:
        found = finder.find(kind, value, k, where, bool(html))
        _print(found.title, found.tiles)
        if html:
            with storage.atomic_write(html) as file:
                file.write(page.render(found.title, rows.data_url(found.query.picture), found.tiles).encode())
            progress.say(f"wrote {html}")


def _lines(kind: str) -> Iterator[tuple[str, str]]:
    """Yields what is asked for on standard input, line by line."""
    for line in sys.stdin:
        if line.strip():
            yield kind, line.strip()


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
