"""The training task as arrays: labelled queries, their neighbour lists, and the memory rows that the lists name.

Checks that queries, lists and memory belong together. The vectors of the memory stay in their files (`vectors`) until
they are needed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from configs.base import Places, Train
from configs.schema.data import SPLITS
from model.data import class_names
from model.data.vectors import Column, Vectors
from pipelines import manifest, schemas, storage
from pipelines.class_names import gap
from pipelines.errors import UserError
from pipelines.manifest import Embeddings, Neighbors

_AGAIN = "run web-memory neighbors again"


@dataclasses.dataclass(frozen=True)
class Split:
    """One labelled split.

    Attributes:
        ids: of the queries, int64 `[N]`.
        queries: float32 `[N, D]`, unit length.
        labels: int32 `[N]`.
        neighbors: rows of the memory, int32 `[N, K]`; 0 where `mask` is false.
        scores: cosine of query and key, float32 `[N, K]`; 0 where `mask` is false.
        mask: bool `[N, K]`, false where the list is padded.
        whitened: the score of `model.prepare.whitening`, float32 `[N, K]`; None if no head reads it.
    """

    ids: np.ndarray
    queries: np.ndarray
    labels: np.ndarray
    neighbors: np.ndarray
    scores: np.ndarray
    mask: np.ndarray
    whitened: np.ndarray | None = None

    @property
    def retrieved(self) -> np.ndarray:
        """The memory rows that some list names, ascending, each once."""
        return np.unique(self.neighbors[self.mask])


def similarities(of: Any, similarity: str) -> Any:
    """Returns the `scores` or the `whitened` scores of a split, or of its tables, `[N, K]`.

    Args:
        of: the split; of a task with a single row of memory it has no white ones.
        similarity: one of `train.similarity`.
    """
    return of.whitened if similarity == "whitened" and of.whitened is not None else of.scores


@dataclasses.dataclass(frozen=True)
class Task:
    """All that a run reads.

    Attributes:
        splits: `train`, `val` and `test`.
        memory_ids: int64 `[M]`, ascending.
        keys: float32 `[M, D]`, unit length, an array or a `Column` that is read when it is needed.
        values: float32 `[M, V]` for each kind of values, in the same way.
        class_counts: training images of each class, int64 `[C]`.
        class_names: one for each class.
        name_vectors: the embedded class names for each kind of text values, float32 `[C, V]`, unit length; a kind is
            missing if its names are not embedded.
        fingerprint: of the neighbour lists and everything they came from.
        prepared: by head, the arrays that its `prepare` made (`model.training.preparation`).
        whitening: of the keys, float32 `[D + 1, D]`, if a head reads whitened scores (`model.prepare.whitening`).
        classifier: where linear classifiers start, float32 `[D, C]` (`model.prepare.name_start`); None for at random.
    """

    splits: dict[str, Split]
    memory_ids: np.ndarray
    keys: Vectors
    values: Mapping[str, Vectors]
    class_counts: np.ndarray
    class_names: list[str]
    name_vectors: Mapping[str, np.ndarray]
    fingerprint: str
    prepared: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    whitening: np.ndarray | None = None
    classifier: np.ndarray | None = None


def divided(task: Task, train: np.ndarray, val: np.ndarray) -> Task:
    """Returns the task with other images in train and val; rows as `sampling.divide` returns them."""
    both = [task.splits[name] for name in ("train", "val")]

    def take(rows: np.ndarray) -> Split:
        joined: dict[str, Any] = {}
        for field in dataclasses.fields(Split):
            first, second = (getattr(split, field.name) for split in both)
            joined[field.name] = None if first is None else np.concatenate([first, second])[rows]
        return Split(**joined)

    return dataclasses.replace(task, splits={**task.splits, "train": take(train), "val": take(val)})


def _matrix(table: pa.Table, column: str) -> np.ndarray:
    return schemas.to_matrix(table[column]).astype(np.float32, copy=False)


def _read_queries(name: str, folder: str, lists: Neighbors) -> pa.Table:
    """Reads id, label and key of a split, and checks that the lists were made from it."""
    embeddings = Embeddings(folder)
    ours, theirs = embeddings.encoder("key").fingerprint, lists.encoders["key"].fingerprint
    if ours != theirs:
        raise UserError(
            f"{lists.folder}: its keys are of another encoder than those of {folder} (fingerprint {theirs} against "
            f"{ours}); embed both with one encoder and run web-memory build and web-memory neighbors again"
        )
    if embeddings.snapshot != lists.query_snapshots.get(name):
        raise UserError(f"{lists.folder}: was made from other queries than {folder} holds now; {_AGAIN}")
    queries = pa.concat_tables([embeddings.read(shard, ["id", "label", "key"]) for shard in embeddings.shard_rows])
    if queries["label"].null_count:
        raise UserError(f"{folder}: has rows without a label; training needs a labelled source")
    if not queries.num_rows:
        raise UserError(f"{folder}: has no rows; training needs train, val and test images")
    return queries


def _load_split(name: str, folder: str, k: int, lists: Neighbors, memory_ids: np.ndarray) -> Split:
    queries, table = _read_queries(name, folder, lists), lists.split(name)
    ids = queries["id"].to_numpy()
    if not np.array_equal(table["query_id"].to_numpy(), ids):
        raise UserError(f"{lists.folder}: its {name} lists are not those of the rows of {folder}; {_AGAIN}")
    neighbor_ids = schemas.to_matrix(table["neighbor_ids"])[:, :k]
    mask = neighbor_ids >= 0
    rows = np.searchsorted(memory_ids, np.where(mask, neighbor_ids, memory_ids[0] if len(memory_ids) else 0))
    if len(memory_ids) == 0 or not np.array_equal(
        memory_ids[np.minimum(rows, len(memory_ids) - 1)][mask], neighbor_ids[mask]
    ):
        raise UserError(f"{lists.folder}: its lists name rows that its memory/ does not hold; {_AGAIN}")
    return Split(
        ids=ids,
        queries=_matrix(queries, "key"),
        labels=queries["label"].to_numpy().astype(np.int32),
        neighbors=np.where(mask, rows, 0).astype(np.int32),
        scores=np.where(mask, schemas.to_matrix(table["scores"])[:, :k], 0).astype(np.float32),
        mask=mask,
    )


def _check_index(folder: str, lists: Neighbors) -> None:
    path = storage.join(folder, "manifest.json")
    # Lists can be trained on without an index.
    if storage.exists(path) and manifest.read_index(path)["fingerprint"] != lists.identity["index"]:
        raise UserError(
            f"{lists.folder}: was looked up in another version of the index than {folder} holds now; {_AGAIN}"
        )


def _count_classes(splits: Mapping[str, Split], names: Sequence[str]) -> np.ndarray:
    """Returns the number of training images of each class, int64 `[C]`; `names` are those that are known."""
    classes = 1 + max(int(split.labels.max()) for split in splits.values())
    labels = splits["train"].labels
    if classes > len(labels):
        raise UserError(f"labels go up to {classes - 1}, more than the {len(labels)} training images")
    counts = np.bincount(labels, minlength=classes)
    if wrong := gap({*np.flatnonzero(counts).tolist()}, [classes - 1], names):
        raise UserError(wrong)
    return counts


def load(places: Places, train: Train) -> Task:
    """Loads the task of a configuration.

    Args:
        places: of the embedded queries, the neighbour lists and the class names.
        train: names the kinds of values, and how many neighbours are used.

    Raises:
        UserError: if an earlier stage has not finished, or the outputs do not belong together.
    """
    lists = Neighbors.open(places.neighbors)
    _check_index(places.index, lists)
    if train.k > lists.k:
        raise UserError(
            f"--config.train.k={train.k}: the lists of {lists.folder} hold {lists.k} neighbours; "
            "use fewer, or run web-memory neighbors with more"
        )
    columns = {kind: f"value_{kind}" for kind in train.values}
    for kind, column in columns.items():
        if column not in lists.encoders:
            raise UserError(f"--config.train.values: the memory has no {kind!r} values; embed it with {column}")
    memory_ids = lists.memory(["id"])["id"].to_numpy()
    k = train.k or lists.k
    splits = {name: _load_split(name, places.queries(name), k, lists, memory_ids) for name in SPLITS}
    named, _ = class_names.known(places)
    counts = _count_classes(splits, named)
    names = class_names.read(places, len(counts))
    return Task(
        splits=splits,
        memory_ids=memory_ids,
        keys=Column(lists, "key"),
        values={kind: Column(lists, column) for kind, column in columns.items()},
        class_counts=counts,
        class_names=names,
        name_vectors=class_names.load(places.classes, lists.encoders, train.values, names) if named else {},
        fingerprint=lists.fingerprint,
    )
