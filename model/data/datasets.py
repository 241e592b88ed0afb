"""The training task as arrays: labelled queries, their neighbour lists, and the memory rows the lists name.

Checks that queries, lists and memory belong together. The vectors of the memory stay in their files (`vectors`) until
they are asked for.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from configs.base import Config
from model.data import class_names, protocol
from model.data.vectors import Column, Vectors
from pipelines import schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings, Neighbors


@dataclasses.dataclass(frozen=True)
class Split:
    """One labelled split.

    Attributes:
        ids: int64 `[N]`, of the queries.
        queries: float32 `[N, D]`, unit length.
        labels: int32 `[N]`.
        neighbors: int32 `[N, K]`, rows of the memory; 0 where `mask` is false.
        scores: float32 `[N, K]`, cosine of query and key, or what `whitening` puts there; 0 where `mask` is false.
        mask: bool `[N, K]`, false where the list is padded.
    """

    ids: np.ndarray
    queries: np.ndarray
    labels: np.ndarray
    neighbors: np.ndarray
    scores: np.ndarray
    mask: np.ndarray

    @property
    def retrieved(self) -> np.ndarray:
        """Rows of the memory that some list names, ascending, each once."""
        return np.unique(self.neighbors[self.mask])


@dataclasses.dataclass(frozen=True)
class Task:
    """All that a run reads.

    Attributes:
        splits: `train`, `val` and `test`.
        memory_ids: int64 `[M]`, ascending.
        keys: float32 `[M, D]`, unit length, an array or a `Column` that is read when it is needed.
        values: for each value kind, float32 `[M, V]`, in the same way.
        class_counts: int64 `[C]`, training images of each class.
        class_names: one for each class.
        classes: arrays of the classes, see `model.data.batch.Batch`.
        fingerprint: of the neighbour lists and everything they came from.
    """

    splits: dict[str, Split]
    memory_ids: np.ndarray
    keys: Vectors
    values: Mapping[str, Vectors]
    class_counts: np.ndarray
    class_names: list[str]
    classes: dict[str, np.ndarray]
    fingerprint: str


def _matrix(table: pa.Table, column: str) -> np.ndarray:
    return schemas.to_matrix(table[column]).astype(np.float32, copy=False)


def _load_split(name: str, config: Config, lists: Neighbors, memory_ids: np.ndarray) -> Split:
    k = config.train.k or lists.k
    folder = config.queries_dir(name)
    embeddings = Embeddings(folder)
    ours, theirs = embeddings.encoder("key").fingerprint, lists.encoders["key"].fingerprint
    if ours != theirs:
        raise UserError(
            f"{lists.folder}: its keys are of another encoder than those of {folder} (fingerprint {theirs} against "
            f"{ours}); embed both with one encoder and run index.build and index.neighbors again"
        )
    if embeddings.snapshot != lists.query_snapshots.get(name):
        raise UserError(
            f"{lists.folder}: was made from other queries than {folder} holds now; run index.neighbors again"
        )
    tables = [embeddings.read(shard, ["id", "label", "key"]) for shard in embeddings.shard_rows]
    queries = pa.concat_tables(tables)
    if queries["label"].null_count:
        raise UserError(f"{folder}: has rows without a label; training needs a labelled source")
    table = lists.split(name)
    ids = queries["id"].to_numpy()
    if not np.array_equal(table["query_id"].to_numpy(), ids):
        raise UserError(
            f"{lists.folder}: its {name} lists are not those of the rows of {folder}; run index.neighbors again"
        )
    neighbor_ids = schemas.to_matrix(table["neighbor_ids"])[:, :k]
    mask = neighbor_ids >= 0
    rows = np.searchsorted(memory_ids, np.where(mask, neighbor_ids, memory_ids[0] if len(memory_ids) else 0))
    if len(memory_ids) == 0 or not np.array_equal(
        memory_ids[np.minimum(rows, len(memory_ids) - 1)][mask], neighbor_ids[mask]
    ):
        raise UserError(
            f"{lists.folder}: its lists name rows that its memory/ does not hold; run index.neighbors again"
        )
    return Split(
        ids=ids,
        queries=_matrix(queries, "key"),
        labels=queries["label"].to_numpy().astype(np.int32),
        neighbors=np.where(mask, rows, 0).astype(np.int32),
        scores=np.where(mask, schemas.to_matrix(table["scores"])[:, :k], 0).astype(np.float32),
        mask=mask,
    )


def _check_index(config: Config, lists: Neighbors) -> None:
    path = storage.join(config.index_dir, "manifest.json")
    # Lists can be trained on where no index is.
    if storage.exists(path) and storage.read_json(path).get("fingerprint") != lists.identity["index"]:
        raise UserError(
            f"{lists.folder}: was looked up in another version of the index than {config.index_dir} holds now; "
            "run index.neighbors again"
        )


def read_class_names(config: Config, classes: int) -> list[str]:
    """Returns the names of the classes as the config's file has them; a `UserError` if there are too few."""
    if not config.class_names:
        return [f"class {label}" for label in range(classes)]
    path = storage.join(config.data, config.class_names)
    with storage.open_read(path) as file:
        names = [line.rpartition("\t")[2] for line in file.read().decode(errors="replace").splitlines()]
    if len(names) < classes:
        raise UserError(f"{path}: names {len(names)} classes, the labels go up to {classes - 1}")
    return names


def load(config: Config) -> Task:
    """Loads the task of a config.

    Raises:
        UserError: if a stage before has not finished, or the outputs do not belong together.
    """
    lists = Neighbors.open(config.neighbors_dir)
    _check_index(config, lists)
    if config.train.k > lists.k:
        raise UserError(
            f"--config.train.k={config.train.k}: the lists of {lists.folder} hold {lists.k} neighbours; "
            "take fewer, or run index.neighbors with more"
        )
    columns = {kind: f"value_{kind}" for kind in config.train.values}
    for kind, column in columns.items():
        if column not in lists.encoders:
            raise UserError(f"--config.train.values: the memory has no {kind!r} values; embed it with {column}")
    memory_ids = lists.memory(["id"])["id"].to_numpy()
    splits = {name: _load_split(name, config, lists, memory_ids) for name in config.queries}
    for name, split in splits.items():
        if not len(split.labels):
            raise UserError(f"{config.queries_dir(name)}: has no rows; training needs train, val and test images")
    labels = np.concatenate([split.labels for split in splits.values()])
    classes = int(labels.max()) + 1
    if classes > len(splits["train"].labels):
        raise UserError(f"labels go up to {classes - 1}, more than the {len(splits['train'].labels)} training images")
    counts = np.bincount(splits["train"].labels, minlength=classes)
    if not counts.all():
        raise UserError(
            f"class {int(np.argmin(counts))} has no training image; every label up to {classes - 1} needs one"
        )
    protocol.check(config, counts)
    names = read_class_names(config, classes)
    embedded = (
        class_names.load(config.classes_file, lists.encoders, config.train.values, names) if config.class_names else {}
    )
    return Task(
        splits=splits,
        memory_ids=memory_ids,
        keys=Column(lists, "key"),
        values={kind: Column(lists, column) for kind, column in columns.items()},
        class_counts=counts,
        class_names=names,
        classes=embedded,
        fingerprint=lists.fingerprint,
    )
