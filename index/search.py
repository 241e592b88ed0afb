"""Shows what the memory holds nearest to an image, a text or one of its own rows: `python -m index.search`.

    python -m index.search --config=configs/demo.py --image=x.jpg
    python -m index.search --config=configs/demo.py --text="a red bird" --k=20
    python -m index.search --config=configs/demo.py --id=1099511627783 --html=page.html

Images are embedded as the memory's keys were; texts by an encoder that shares their space, if the config has one. The
search is that of `reader`, the page that of `search_page`.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from configs.base import Config
from index.engines.searcher import leave_out
from index.searching import page
from index.searching.page import Tile
from index.store.keys import COLUMNS
from index.store.reader import Index
from pipelines import options, progress, schemas, storage
from pipelines.encoders.handles import EncoderSpec
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.schemas import unit_keys
from pipelines.sources import pictures

_SIDE = 200
_VALUES: dict[str, tuple[Any, str]] = {
    "image": ("", "image file to search for"),
    "text": ("", "text to search for"),
    "id": (-1, "row of the memory to search for, which is left out itself"),
    "k": (10, "rows to show (10)"),
    "html": ("", "page to write, with the pictures"),
}


@dataclasses.dataclass(frozen=True)
class Query:
    """What is searched for.

    Attributes:
        title: names it.
        vector: float32 `[d]`.
        picture: of it, if it has one.
        own_id: row of the memory that it is; -1 for none.
    """

    title: str
    vector: np.ndarray
    picture: Image.Image | None = None
    own_id: int = -1


def key_encoder(config: Config, index: Index) -> EncoderSpec:
    """Returns the encoder that the keys of an index are of.

    Raises:
        UserError: if the config has another one.
    """
    from pipelines.encoders import handles

    chosen, known = config.encoders, index.key_encoder
    if chosen.key.startswith(handles.PRECOMPUTED):
        spec = handles.precomputed(chosen.key, known.dim, chosen.dtype, chosen.normalize)
    else:
        spec = handles.resolve(chosen.key, chosen.dtype, chosen.normalize, chosen.crop_fraction)
    if (spec.info.fingerprint, spec.info.dim) != (known.fingerprint, known.dim):
        raise UserError(
            f"--config.encoders.key={chosen.key}: its fingerprint is {spec.info.fingerprint}, the keys of "
            f"{index.folder} are of {known.fingerprint}; name the encoder that the memory was embedded with"
        )
    return spec


def of_image(config: Config, index: Index, path: str) -> Query:
    """Embeds an image file.

    Raises:
        UserError: if it is no image, or the keys are not of an encoder that is here.
    """
    from pipelines.encoders import handles
    from pipelines.images import decode

    spec = key_encoder(config, index)
    if spec.kind == "precomputed":
        raise UserError(f"--image: the keys were brought as {spec.handle}, there is no encoder for an image; use --id")
    data = storage.read_image(".", path, config.embed.max_image_bytes)
    encoder = handles.ImageEncoder(spec)
    try:
        picture = decode.decode(data, config.embed.max_image_pixels, [encoder.preprocess])
    except decode.DecodeError as error:
        raise UserError(f"{path}: {error}") from error
    vectors = encoder.encode([decode.prepare(picture, encoder.preprocess)], config.embed.batch_size)
    return Query(path, vectors[0], picture.image)


def of_text(config: Config, index: Index, text: str) -> Query:
    """Embeds a text.

    Raises:
        UserError: if no encoder of texts shares the space of the keys.
    """
    from pipelines.encoders import handles

    key = key_encoder(config, index)
    texts = [handle for handle, kind in handles.columns(config.encoders).values() if kind == "text"]
    specs = [handles.resolve(handle, config.encoders.dtype) for handle in texts] if key.space else []
    spec = next((spec for spec in specs if spec.space == key.space), None)
    if spec is None:
        raise UserError(
            f"--text: no encoder of texts shares the space of the key encoder {key.handle} "
            f"({f'space {key.space!r}' if key.space else 'which names no space'}); --config.encoders.value_text has "
            f"{', '.join(texts) or 'none'} (docs/encoders.md, 'space')"
        )
    if spec.info.dim != index.key_encoder.dim:
        raise UserError(
            f"encoder {spec.handle!r}: gives {spec.info.dim} values, the keys of its space {key.space!r} have "
            f"{index.key_encoder.dim}; correct 'space' in one of their descriptions"
        )
    return Query(f'"{text}"', handles.TextEncoder(spec).encode([text], config.embed.batch_size)[0])


def of_row(config: Config, memory: Embeddings, id_: int) -> Query:
    """Reads the key of a row of the memory.

    Raises:
        UserError: if there is no such row.
    """
    shard = int(schemas.split_ids(np.array([id_]))[0][0])
    table = memory.read(shard, [*COLUMNS, "source_shard", "member"]) if shard in memory.shard_rows else None
    places = np.flatnonzero(table["id"].to_numpy() == id_).tolist() if table else []
    if table is None or not places:
        raise UserError(f"--id={id_}: {memory.folder} has no such row; take an id that a search shows")
    row = table.slice(places[0], 1)
    vector = unit_keys(row["key"], memory.encoder("key"), f"{memory.folder}, shard {shard}")[0]
    try:
        picture = pictures.load(config, config.memory, row["source_shard"][0].as_py(), row["member"][0].as_py())
    except UserError:
        # The search does not need it.
        picture = None
    return Query(f"row {id_}", vector, picture, id_)


def find(index: Index, query: Query, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids int64 and scores float32 `[<= k]` of the rows nearest to a query, without itself."""
    is_row, k = query.own_id >= 0, min(k, index.rows)
    vector = query.vector / max(float(np.linalg.norm(query.vector)), np.finfo(np.float32).tiny)
    hits = index.search(vector[None], k + is_row)
    ids, scores = leave_out(hits.ids, hits.scores, hits.ids == query.own_id, k)
    found = ids[0] >= 0
    return ids[0][found], scores[0][found]


def read_rows(memory: Embeddings, ids: np.ndarray) -> list[dict[str, Any]]:
    """Returns `id`, `source_shard`, `member`, `url` and `caption` of rows of the memory, reading only their shards.

    Raises:
        UserError: if one is not there.
    """
    rows: dict[int, dict[str, Any]] = {}
    for shard in np.unique(schemas.split_ids(ids)[0]).tolist():
        if shard in memory.shard_rows:
            table = memory.read(shard, ["id", "source_shard", "member", "url", "caption"])
            wanted = table.take(np.flatnonzero(np.isin(table["id"].to_numpy(), ids)))
            rows |= {row["id"]: row for row in wanted.to_pylist()}
    if missing := [id_ for id_ in ids.tolist() if id_ not in rows]:
        raise UserError(f"{memory.folder}: has no row {missing[0]}, which the index found; run index.build again")
    return [rows[id_] for id_ in ids.tolist()]


def _tile(config: Config, row: dict[str, Any], score: float, with_picture: bool) -> Tile:
    container, member = row["source_shard"], row["member"]
    tile = Tile(row["id"], score, row["caption"] or "", row["url"] or f"{container}/{member}")
    if not with_picture:
        return tile
    try:
        picture = pictures.load(config, config.memory, container, member)
    except UserError as error:
        return dataclasses.replace(tile, missing=str(error))
    return dataclasses.replace(tile, picture=pictures.data_url(picture, _SIDE))


def print_table(title: str, tiles: Sequence[Tile]) -> None:
    """Prints the rows that were found."""
    rows = [
        (str(rank), f"{tile.score:.4f}", tile.caption, tile.place, str(tile.id)) for rank, tile in enumerate(tiles, 1)
    ]
    progress.table(title, ("rank", "score", "caption", "from", "id"), rows, left=("caption", "from"))


def run(config: Config, image: str, text: str, id: int, k: int, html: str) -> None:
    """Searches and shows what is found.

    Raises:
        UserError: if a flag is wrong, there is no index, or its memory is not the one that was indexed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if bool(image) + bool(text) + (id >= 0) != 1:
        raise UserError("give one of --image=FILE, --text=TEXT and --id=ID")
    if k < 1:
        raise UserError(f"--k={k}: must be at least 1")
    index, memory = Index.open(config.index_dir), Embeddings(config.memory_dir)
    if memory.snapshot != index.memory_snapshot:
        raise UserError(f"{memory.folder}: has changed since {index.folder} was built; run index.reindex")
    if image:
        query = of_image(config, index, image)
    else:
        query = of_text(config, index, text) if text else of_row(config, memory, id)
    ids, scores = find(index, query, k)
    found = zip(read_rows(memory, ids), scores.tolist(), strict=True)
    tiles = [_tile(config, row, score, bool(html)) for row, score in found]
    title = f"nearest to {query.title}, of {index.rows:,} rows"
    print_table(title, tiles)
    if html:
        asked = pictures.data_url(query.picture, _SIDE) if query.picture else ""
        with storage.atomic_write(html) as file:
            file.write(page.render(title, asked, tiles).encode())
        progress.say(f"wrote {html}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, values=_VALUES)


if __name__ == "__main__":
    sys.exit(main())
