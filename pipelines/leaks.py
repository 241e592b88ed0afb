"""Shows the memory rows that were dropped as copies of val and test images, and those that nearly were.

    web-memory leaks --config=configs/demo.py
    web-memory leaks --config=configs/demo.py --html=leaks.html --k=100

Each row stands beside the image that it was taken for a copy of, with the cosine of their keys and the similarity of
their pixels. The most doubtful rows come first: of the dropped ones those that were barely copies, of the kept ones
those that nearly were.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from configs.base import Config
from pipelines import options, progress, storage
from pipelines.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.filtering.leaks import Pair

_VALUES: dict[str, tuple[Any, str]] = {
    "k": (50, "number of dropped pairs, and of kept ones, to show (50)"),
    "html": ("", "page to write, with the pictures"),
}


def run(config: Config, k: int, html: str) -> None:
    """Shows the pairs.

    Raises:
        UserError: if a flag is wrong, the memory is not embedded, or it was not compared with any split.
    """
    from pipelines.filtering import leak_page, leaks, selection
    from pipelines.filtering.leak_page import Part
    from pipelines.manifest import Embeddings
    from pipelines.sources.pictures import Pictures

    if k < 1:
        raise UserError(f"--k={k}: must be at least 1")
    memory = Embeddings(config.places.memory)
    chosen = selection.read(memory.folder)
    if "leakage" not in chosen.totals:
        raise UserError(
            f"{memory.folder}: was not compared with val or test images; set --config.filters.leakage and name a "
            "split, then run web-memory embed"
        )
    splits = {name: Embeddings(config.places.queries(name)) for name, _ in chosen.identity["splits"]}
    if stale := [name for name, snapshot in chosen.identity["splits"] if splits[name].snapshot != snapshot]:
        raise UserError(
            f"{splits[stale[0]].folder}: has changed since the memory was compared with it; run web-memory embed again"
        )
    total = chosen.totals["leakage"]
    dropped, kept = leaks.dropped(memory, splits, chosen, k), leaks.kept(memory, splits, chosen, k)
    titles = f"dropped, {len(dropped):,} of {total:,} rows, the most doubtful first", "kept, the nearest first"
    for title, pairs in zip(titles, (dropped, kept), strict=True):
        _print(title, pairs)
    if html:
        sources = {"memory": config.memory, **config.queries}
        found = {name: Pictures(sources[name], config.places.data, config.embed) for name in ("memory", *splits)}

        def load(folder: str, container: str, member: str) -> "Image.Image":
            return found[folder].load(container, member)

        parts = [Part(title, pairs) for title, pairs in zip(titles, (dropped, kept), strict=True)]
        page = leak_page.render(f"copies of {' and '.join(splits)} images", leaks.summary(chosen), parts, load)
        with storage.atomic_write(html) as file:
            file.write(page.encode())
        progress.say(f"wrote {html}")


def _print(title: str, pairs: "Sequence[Pair]") -> None:
    from pipelines.filtering.leak_page import pixels_text

    rows = [
        (f"{p.cosine:.4f}", pixels_text(p), p.row.member, str(p.row.id), p.query.folder, p.query.member) for p in pairs
    ]
    columns = ("cosine", "pixels", "row", "id", "split", "image")
    progress.table(title, columns, rows, left=("row", "split", "image"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, values=_VALUES)


if __name__ == "__main__":
    sys.exit(main())
