"""Look-ups one after another: what is opened for the first stays open, so that the next takes milliseconds.

    from index.searching.finder import Finder

    finder = Finder(config)
    found = finder.find("text", "a red bird", k=20, where="similarity>=0.3 and LICENSE=cc0")
    found.tiles[0].caption, found.tiles[0].score

It follows the published version of the index: if another one is published, the next look-up opens that.
"""

import dataclasses
import re

from configs.base import Config
from index.searching import matching, queries, rows
from index.searching import where as filters
from index.searching.matching import Filters
from index.searching.page import Tile
from index.searching.queries import Query, QueryEncoders
from index.store.indexed_memory import IndexedMemory, Published, open_memory
from index.store.reader import Index
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.progress import counted
from pipelines.sources import pictures

KINDS = ("image", "text", "id", "vector")
_ID = re.compile(r"[0-9]{1,30}")


@dataclasses.dataclass(frozen=True)
class Found:
    """The answer to a look-up.

    Attributes:
        title: says what was searched for and among how many rows.
        query: what was searched for.
        tiles: the rows, the nearest first.
    """

    title: str
    query: Query
    tiles: list[Tile]


class _Version:
    """One version of an index with its memory, and the rows that filters let pass there."""

    def __init__(self, index: Index, memory: Embeddings | IndexedMemory) -> None:
        self.index, self.memory = index, memory
        self.filters = Filters(matching.tables_of(memory), memory.folder, index.rows, "--where")


class Finder:
    """An index, its memory and the encoders of queries, for any number of look-ups; for one thread."""

    def __init__(self, config: Config) -> None:
        """Opens nothing yet: the first look-up does."""
        places = config.places
        self._encoders = QueryEncoders(config.encoders, config.embed)
        self._load = pictures.Pictures(config.memory, places.data, config.embed).load
        self._published = Published(places.index, lambda index: _Version(index, open_memory(places.memory, index)))

    def find(self, kind: str, asked: str | int, k: int = 10, where: str = "", with_pictures: bool = False) -> Found:
        """Returns the rows nearest to a query.

        Args:
            kind: of the query: `image`, `text`, `id` or `vector`.
            asked: a file, a text, or the id of a row.
            k: number of rows; fewer are found only if the filter lets fewer pass.
            where: a filter over the columns of the memory (`where`); empty for none.
            with_pictures: whether to read the picture of each row.

        Raises:
            UserError: if the query or the filter is wrong, there is no index, or a row that it finds has been replaced.
        """
        if k < 1:
            raise UserError(f"--k={k}: must be at least 1")
        if where:
            filters.parse(where, "--where")

        def work(version: _Version) -> Found:
            query = self._query(kind, asked, version)
            allowed, number = version.filters.allowed(where)
            ids, scores = rows.find(version.index, query, k, allowed)
            found = zip(rows.read(version.memory, ids), scores.tolist(), strict=True)
            tiles = [rows.tile(row, score, self._load if with_pictures else None) for row, score in found]
            among = f"{number:,} of {version.index.rows:,} rows, where {where}" if where else counted(number, "row")
            return Found(f"nearest to {query.title}, of {among}", query, tiles)

        return self._published.use(work)

    def _query(self, kind: str, asked: str | int, version: _Version) -> Query:
        if kind == "image":
            return self._encoders.of_image(str(asked), version.index)
        if kind == "text":
            return self._encoders.of_text(str(asked), version.index)
        if kind == "vector":
            return queries.of_vector(str(asked), version.index)
        if not _ID.fullmatch(str(asked)):
            raise UserError(f"--id={asked}: must be a whole number, at least 0")
        return queries.of_row(int(asked), version.memory, self._load)
