"""Other memories for a task: some rows of the embedded memory, or the training set, searched exactly.

They are for ablations of some hundred thousand rows, all in memory at once; `index` is for more. Which rows make a
memory is left to `ablations`.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.base import Config
from model.data.datasets import Split, Task
from pipelines import schemas
from pipelines.errors import UserError
from pipelines.manifest import Embeddings

MAX_ROWS = 2_000_000
_QUERY_BLOCK = 256


@dataclasses.dataclass(frozen=True)
class Memory:
    """Rows that can be retrieved.

    Attributes:
        ids: int64 `[M]`.
        images: SHA-256 of each row's image, `S32` `[M]`.
        keys: float32 `[M, D]`, unit length.
        values: for each kind, float32 `[M, V]`.
        captions: of each row, `[M]`, empty for none.
        urls: of each row, `[M]`, empty for none.
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


def load(config: Config, kinds: tuple[str, ...], also: tuple[str, ...] = ()) -> Memory:
    """Loads the embedded memory.

    Args:
        config: names its folder.
        kinds: of values, such as `text`.
        also: reasons whose dropped rows are in it all the same.

    Raises:
        UserError: if it is too large for an exact search, or has no such values.
    """
    embeddings = Embeddings(config.memory_dir)
    if embeddings.rows > MAX_ROWS:
        raise UserError(
            f"{embeddings.folder}: has {embeddings.rows:,} rows; other memories are searched exactly, which is for at "
            f"most {MAX_ROWS:,}"
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


def of_training_set(config: Config, task: Task) -> Memory:
    """Returns the training images as a memory; an image's value is the text embedding of its class's name.

    Raises:
        UserError: if the task's values are not texts alone, or the names are not embedded.
    """
    train, kinds = task.splits["train"], tuple(task.values)
    if kinds != ("text",):
        raise UserError("the training set as memory has names of classes as values; set --config.train.values=text")
    if "names_text" not in task.classes:
        raise UserError("the names of the classes are not embedded; set --config.class_names and run pipelines.embed")
    return Memory(
        ids=-1 - np.arange(len(train.labels)),
        images=images(config, "train"),
        keys=train.queries,
        values={"text": task.classes["names_text"][train.labels].astype(np.float32)},
        captions=np.array(task.class_names, object)[train.labels],
        urls=np.full(len(train.labels), "", object),
    )


def images(config: Config, split: str) -> np.ndarray:
    """Returns the SHA-256 of the images of a split, `S32` `[N]`."""
    embeddings = Embeddings(config.queries_dir(split))
    parts = [schemas.content_keys(embeddings.read(s, ["content_key"])["content_key"]) for s in embeddings.shard_rows]
    return np.concatenate(parts)


def search(queries: np.ndarray, keys: np.ndarray, k: int, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Searches exactly.

    Args:
        queries: float32 `[N, D]`.
        keys: float32 `[M, D]`.
        k: length of the lists.
        hidden: pairs of a query's and a key's row that are left out, int64 `[P, 2]`, ascending.

    Returns:
        Rows int32 `[N, k]` and scores float32 `[N, k]`, descending, ties by row; -1 and -inf where there are fewer.
    """
    rows = np.full((len(queries), k), -1, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    if not len(keys):
        return rows, scores
    width = min(k, len(keys))
    for first in range(0, len(queries), _QUERY_BLOCK):
        block = queries[first : first + _QUERY_BLOCK] @ keys.T
        mine = hidden[np.searchsorted(hidden[:, 0], first) : np.searchsorted(hidden[:, 0], first + len(block))]
        block[mine[:, 0] - first, mine[:, 1]] = -np.inf
        # Whatever ties with the last place is sorted too, so that the lowest rows are kept.
        last = np.partition(block, len(keys) - width, axis=1)[:, len(keys) - width]
        query, row = np.nonzero((block >= last[:, None]) & np.isfinite(block))
        order = np.lexsort((row, -block[query, row], query))
        query, row = query[order], row[order]
        place = np.arange(len(query)) - np.searchsorted(query, query)
        kept = place < width
        query, row, place = query[kept], row[kept], place[kept]
        rows[first + query, place], scores[first + query, place] = row, block[query, row]
    return rows, scores


def _same(queries: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """Returns the pairs of rows that are one image, `[P, 2]`, ascending."""
    order = np.argsort(memory, kind="stable")
    begin = np.searchsorted(memory, queries, "left", sorter=order)
    end = np.searchsorted(memory, queries, "right", sorter=order)
    pairs = [(query, row) for query in np.flatnonzero(end > begin) for row in sorted(order[begin[query] : end[query]])]
    return np.array(pairs, np.int64).reshape(-1, 2)


def retrieve(config: Config, task: Task, memory: Memory, k: int, exclude_same_image: bool) -> Task:
    """Returns the task with lists out of another memory.

    Args:
        config: names the folders of the queries.
        task: whose queries look neighbours up.
        memory: that is searched.
        k: length of the lists.
        exclude_same_image: whether rows with the bytes of the query's image are left out: of a memory that is the
            training set, an image's own entry.

    Raises:
        UserError: if nothing is in it.
    """
    if not len(memory):
        raise UserError("this memory has no rows; choose others")
    splits = {}
    for name, split in task.splits.items():
        hidden = _same(images(config, name), memory.images) if exclude_same_image else np.empty((0, 2), np.int64)
        rows, scores = search(split.queries, memory.keys, k, hidden)
        mask = rows >= 0
        lists = (np.where(mask, rows, 0), np.where(mask, scores, 0).astype(np.float32), mask)
        splits[name] = Split(split.ids, split.queries, split.labels, *lists)
    return dataclasses.replace(task, splits=splits, memory_ids=memory.ids, keys=memory.keys, values=memory.values)
