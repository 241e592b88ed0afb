"""Other memories for a task: some rows of the embedded memory, or the training set, with exact search.

They are for ablations with a few hundred thousand rows, all in memory at once; `index` is for more. `ablations` chooses
the rows.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.base import Places
from model.data.datasets import Split, Task
from pipelines import nearest_neighbors, schemas
from pipelines.errors import UserError
from pipelines.manifest import Embeddings

MAX_ROWS = 2_000_000


@dataclasses.dataclass(frozen=True)
class Memory:
    """Rows that can be retrieved.

    Attributes:
        ids: int64 `[M]`.
        images: SHA-256 of each image, `S32` `[M]`.
        keys: float32 `[M, D]`, unit length.
        values: float32 `[M, V]` for each kind.
        captions: str `[M]`, empty for none.
        urls: str `[M]`, empty for none.
    """

    ids: np.ndarray
    images: np.ndarray
    keys: np.ndarray
    values: dict[str, np.ndarray]
    captions: np.ndarray
    urls: np.ndarray

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "Memory":
        """Returns some rows, by number or by a bool `[M]`."""
        values = {kind: value[rows] for kind, value in self.values.items()}
        captions, urls = self.captions[rows], self.urls[rows]
        return Memory(self.ids[rows], self.images[rows], self.keys[rows], values, captions, urls)

    def join(self, other: "Memory") -> "Memory":
        """Returns the rows of both; a `UserError` if their values are of other kinds or widths."""
        for kind, value in self.values.items():
            if kind not in other.values or other.values[kind].shape[1] != value.shape[1]:
                raise UserError(f"the two memories have no {kind!r} values of one encoder; name one of them alone")
        return Memory(
            ids=np.concatenate([self.ids, other.ids]),
            images=np.concatenate([self.images, other.images]),
            keys=np.concatenate([self.keys, other.keys]),
            values={kind: np.concatenate([value, other.values[kind]]) for kind, value in self.values.items()},
            captions=np.concatenate([self.captions, other.captions]),
            urls=np.concatenate([self.urls, other.urls]),
        )


def load(folder: str, kinds: tuple[str, ...], also: tuple[str, ...] = ()) -> Memory:
    """Loads an embedded memory.

    Args:
        folder: of the memory.
        kinds: of values, such as `text`.
        also: rows that were dropped for one of these reasons are included.

    Raises:
        UserError: if it is too large for an exact search, or has no such values.
    """
    embeddings = Embeddings(folder)
    if embeddings.rows > MAX_ROWS:
        raise UserError(
            f"{folder}: has {embeddings.rows:,} rows; ablations of the memory use exact search of at most {MAX_ROWS:,}"
        )
    key = embeddings.encoder("key")
    for kind in kinds:
        embeddings.encoder(f"value_{kind}")
    columns = ["id", "content_key", "key", "caption", "url", *(f"value_{kind}" for kind in kinds)]
    table = pa.concat_tables([embeddings.read(shard, columns, also) for shard in embeddings.shard_rows])
    return Memory(
        ids=table["id"].to_numpy(),
        images=schemas.content_keys(table["content_key"]),
        keys=schemas.unit_keys(table["key"], key, embeddings.folder),
        values={kind: schemas.to_matrix(table[f"value_{kind}"]).astype(np.float32, copy=False) for kind in kinds},
        captions=np.array(pc.fill_null(table["caption"], "").to_pylist(), object),
        urls=np.array(pc.fill_null(table["url"], "").to_pylist(), object),
    )


def of_training_set(places: Places, task: Task) -> Memory:
    """Returns the training images as a memory; the value of an image is the embedded name of its class.

    Raises:
        UserError: if the task has other values than text, or the names are not embedded.
    """
    train, kinds = task.splits["train"], tuple(task.values)
    if kinds != ("text",):
        raise UserError("the training set as memory has class names as values; set --config.train.values=text")
    if "text" not in task.name_vectors:
        raise UserError("the names of the classes are not embedded; set --config.class_names and run web-memory embed")
    return Memory(
        ids=-1 - np.arange(len(train.labels)),
        images=images(places.queries("train")),
        keys=train.queries,
        values={"text": task.name_vectors["text"][train.labels].astype(np.float32)},
        captions=np.array(task.class_names, object)[train.labels],
        urls=np.full(len(train.labels), "", object),
    )


def random(memory: Memory, seed: int) -> Memory:
    """Returns a memory of the same shape that says nothing: its vectors are drawn on the unit sphere."""
    rng = np.random.default_rng(seed)

    def drawn(matrix: np.ndarray) -> np.ndarray:
        rows = rng.normal(size=matrix.shape)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    values = {kind: drawn(value) for kind, value in memory.values.items()}
    return dataclasses.replace(memory, keys=drawn(memory.keys), values=values)


def nearest_to_any(queries: np.ndarray, keys: np.ndarray, count: int) -> np.ndarray:
    """Returns the `count` keys with the highest cosine to any of the queries, int64, descending, ties by row.

    Args:
        queries: `[N, D]`, unit length.
        keys: `[M, D]`, unit length.
        count: at most M.
    """
    rows, scores = nearest_neighbors.search(queries, keys, count, hidden=np.empty((0, 2), np.int64))
    order = np.lexsort((rows.ravel(), -scores.ravel()))
    _, first = np.unique(rows.ravel()[order], return_index=True)
    return rows.ravel()[order][np.sort(first)][:count].astype(np.int64)


def images(folder: str) -> np.ndarray:
    """Returns the SHA-256 of the images of an embedded split, `S32` `[N]`."""
    embeddings = Embeddings(folder)
    parts = [schemas.content_keys(embeddings.read(s, ["content_key"])["content_key"]) for s in embeddings.shard_rows]
    return np.concatenate(parts)


def search(queries: np.ndarray, keys: np.ndarray, k: int, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Searches exactly.

    Args:
        queries: float32 `[N, D]`.
        keys: float32 `[M, D]`.
        k: length of the lists.
        hidden: pairs of a query row and a key row that are left out, int64 `[P, 2]`, ascending.

    Returns:
        Rows int32 `[N, k]` and scores float32 `[N, k]`, descending, ties by row; -1 and -inf where there are fewer.
    """
    rows, scores = nearest_neighbors.search(queries, keys, k, hidden=hidden)
    return rows.astype(np.int32), scores


def _same(queries: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """Returns the pairs of rows that have the same image, `[P, 2]`, ascending."""
    order = np.argsort(memory, kind="stable")
    begin = np.searchsorted(memory, queries, "left", sorter=order)
    end = np.searchsorted(memory, queries, "right", sorter=order)
    pairs = [(query, row) for query in np.flatnonzero(end > begin) for row in sorted(order[begin[query] : end[query]])]
    return np.array(pairs, np.int64).reshape(-1, 2)


def retrieve(places: Places, task: Task, memory: Memory, k: int, exclude_same_image: bool) -> Task:
    """Returns the task with lists of neighbours from another memory.

    Args:
        places: of the embedded queries.
        task: with the queries.
        memory: the memory to search.
        k: length of the lists.
        exclude_same_image: whether rows with the bytes of the query's image are left out. In a memory that is the
            training set, that is the image's own entry.

    Raises:
        UserError: if the memory is empty.
    """
    if not len(memory):
        raise UserError("this memory has no rows; choose others")
    splits = {}
    for name, split in task.splits.items():
        hidden = (
            _same(images(places.queries(name)), memory.images) if exclude_same_image else np.empty((0, 2), np.int64)
        )
        rows, scores = search(split.queries, memory.keys, k, hidden)
        mask = rows >= 0
        lists = (np.where(mask, rows, 0), np.where(mask, scores, 0).astype(np.float32), mask)
        splits[name] = Split(split.ids, split.queries, split.labels, *lists)
    return dataclasses.replace(task, splits=splits, memory_ids=memory.ids, keys=memory.keys, values=memory.values)
