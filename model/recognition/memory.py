"""The rows of a memory that a recogniser may show or read, all of them in memory.

They come from the shards of an embedded memory, or from the same columns in a bundle.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schemas
from pipelines.errors import UserError

KEY, CAPTION, URL = "key", "caption", "url"


@dataclasses.dataclass(frozen=True)
class Memory:
    """Rows of a memory.

    Attributes:
        ids: int64 `[M]`, ascending.
        vectors: by column, `key` and `value_*`, `[M, V]` in the type that is stored.
        captions: empty for none.
        urls: empty for none.
    """

    ids: np.ndarray
    vectors: dict[str, np.ndarray]
    captions: pa.Array
    urls: pa.Array

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Returns the rows of ids, of any shape; a `UserError` if one is not here."""
        places = np.minimum(np.searchsorted(self.ids, ids), max(len(self.ids) - 1, 0))
        missing = ids[self.ids[places] != ids] if len(self.ids) else ids.ravel()
        if missing.size:
            raise UserError(
                f"the memory has no row {missing[0]}, which the index found: it has changed since; open it again"
            )
        return places

    def read(self, column: str, places: np.ndarray) -> np.ndarray:
        """Returns vectors float32 `[.., V]` of rows `[..]`."""
        return self.vectors[column][places].astype(np.float32, copy=False)


def columns(kinds: Sequence[str]) -> list[str]:
    """Returns the columns that are read, for kinds of values such as `text`."""
    return ["id", KEY, *(f"value_{kind}" for kind in kinds), CAPTION, URL]


def load(tables: Iterable[pa.Table], dims: Mapping[str, int]) -> Memory:
    """Returns the rows of tables.

    Args:
        tables: with `id`, `caption`, `url` and columns of vectors, in any order.
        dims: width of each column of vectors.

    Raises:
        UserError: if an id occurs twice, or vectors are of another width.
    """
    parts = [table.select(["id", *dims, CAPTION, URL]) for table in tables]
    vectors = {}
    for name, dim in dims.items():
        # Column by column, so that only one is in memory twice.
        matrices = [schemas.to_matrix(part[name]) for part in parts] or [np.zeros((0, dim), np.float32)]
        if {matrix.shape[1] for matrix in matrices} != {dim}:
            raise UserError(f"the memory's {name} are not {dim} wide; embed it again")
        vectors[name] = np.concatenate(matrices)
        parts = [part.drop_columns([name]) for part in parts]
    rest = pa.concat_tables(parts) if parts else pa.table({"id": pa.array([], pa.int64()), CAPTION: [], URL: []})
    ids = rest["id"].to_numpy()
    if not (np.diff(ids) > 0).all():
        order = np.argsort(ids, kind="stable")
        ids, rest = ids[order], rest.take(pa.array(order))
        vectors = {name: matrix[order] for name, matrix in vectors.items()}
        if not (np.diff(ids) > 0).all():
            raise UserError("the memory has two rows of one id; its files are damaged, embed it again")
    captions, urls = (pc.fill_null(rest[name].cast(pa.large_string()), "").combine_chunks() for name in (CAPTION, URL))
    return Memory(ids, vectors, captions, urls)
