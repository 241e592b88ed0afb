"""The finished folder of concepts: which rows of a memory name which class, as heads and reports read it."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines import drawing, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest.claims import COMPLETE_FILE, LIST_FILE, fingerprint
from pipelines.manifest.finished import read_complete

_STAGE = "pipelines.concepts"
_AGAIN = "run web-memory concepts again"
# Rows that are read at a time.
_CHUNK_ROWS = 1 << 18


class Named(NamedTuple):
    """Memory rows that name classes, one for each class that a row names.

    Attributes:
        labels: the class, int32 `[n]`.
        ids: the memory row, int64 `[n]`.
        classes: how many classes the row's caption names, at least 1, int32 `[n]`.
    """

    labels: np.ndarray
    ids: np.ndarray
    classes: np.ndarray

    def at(self, places: np.ndarray) -> "Named":
        """Returns the rows at places, which may be a mask."""
        return Named(self.labels[places], self.ids[places], self.classes[places])


@dataclasses.dataclass(frozen=True)
class Concepts:
    """A finished folder of concepts (`web-memory concepts`): an inverted list from classes to memory rows.

        concepts = Concepts.open(places.concepts)
        concepts.check_memory(memory.snapshot)
        found = concepts.balanced(500, config.seed)     # labels [n], ids [n]: at most 500 rows of each class
        table = memory.take(shard, ["id", "key"], ids)  # ids of one shard, `schemas.split_ids(found.ids)[0] == shard`

    A row belongs to a class if its caption names one of the class's synonyms: by whole words, whatever their case and
    number; of overlapping names the first and longest counts (`pipelines.mentions.Names`). A caption may name several
    classes. Rows that the selection of the memory drops are not in it.

    Attributes:
        folder: its path.
        memory: snapshot of the memory that the captions are of.
        fingerprint: of the configuration and of every file's bytes.
        captions: captions of the memory that were read; rows without one count as an empty one.
        named: how many of them name a class.
        files: name, rows and SHA-256 of every file: names, classes, then the rows, in the order of their ids.
        config_hash: of the files.
        rules: fingerprint of the names and of the rules by which a caption names them.
    """

    folder: str
    memory: str
    fingerprint: str
    captions: int
    named: int
    files: tuple[dict[str, Any], ...]
    config_hash: str
    rules: str

    @classmethod
    def open(cls, folder: str) -> "Concepts":
        """Opens a folder; a `UserError` if it is not finished or damaged."""
        shape = {"files": [LIST_FILE], "fingerprint": str, "captions": int, "named": int}
        identity, whole = read_complete(folder, _STAGE, shape)
        path = storage.join(folder, COMPLETE_FILE)
        if whole["fingerprint"] != fingerprint([whole["config_hash"], whole["files"]]):
            raise UserError(f"{path}: has a fingerprint that is not that of its files; remove it and {_AGAIN}")
        if schemas.misshapen(identity, {"memory": str, "names": str, "rules": str}) or len(whole["files"]) < 2:
            raise UserError(f"{folder}: is not a folder of concepts of this version; remove the folder and {_AGAIN}")
        for file in whole["files"]:
            storage.inside(folder, file["name"])
        return cls(
            folder,
            identity["memory"],
            whole["fingerprint"],
            whole["captions"],
            whole["named"],
            tuple(whole["files"]),
            whole["config_hash"],
            fingerprint([identity["names"], identity["rules"]]),
        )

    def check_memory(self, snapshot: str) -> None:
        """Raises a `UserError` if the captions are not those of the memory with this snapshot."""
        if self.memory != snapshot:
            raise UserError(f"{self.folder}: is of another memory than there is now; {_AGAIN}")

    def check_names(self, names: Sequence[str]) -> None:
        """Raises a `UserError` if the first classes are not called so."""
        own = self.classes()["name"].to_pylist()[: len(names)]
        if own != list(names):
            raise UserError(f"{self.folder}: is of other class names than those of the config; {_AGAIN}")

    def names(self) -> pa.Table:
        """Returns each synonym of each class and the captions that name it: `label`, `name`, `captions`, by label."""
        return self._read(self.files[0], schemas.CONCEPT_COUNTS)

    def classes(self) -> pa.Table:
        """Returns each class and the captions that name it by any synonym: `label`, `name`, `captions`, by label."""
        return self._read(self.files[1], schemas.CONCEPT_COUNTS)

    def rows(self, label: int) -> np.ndarray:
        """Returns the ids of all rows that name a class, int64 `[n]`, ascending; reads only the parts that have it."""
        found = [np.empty(0, np.int64)]
        for file in self.files[2:]:
            found += [chunk.ids[chunk.labels == label] for chunk in self._chunks(file, label)]
        return np.concatenate(found)

    def chunks(self) -> Iterator[Named]:
        """Yields all rows, a bounded number at a time; in each they are ascending by class, then by id.

        The ids of a class ascend from chunk to chunk, too.
        """
        for file in self.files[2:]:
            yield from self._chunks(file)

    def balanced(self, most: int, seed: int, alone: bool = False) -> Named:
        """Chooses at most `most` rows of each class, at random by the seed; reads the list once.

        The choice depends on the seed and on the list alone. A smaller `most` chooses a part of what a larger one
        does. Memory is bounded by `most` rows a class.

        Args:
            most: rows of a class, at least 1.
            seed: of the choice.
            alone: whether only rows count that name no other class.

        Returns:
            The rows, ascending by class, then by id.
        """
        kept, waiting, rows, limit = _NONE, [], 0, _CHUNK_ROWS
        for chunk in self.chunks():
            waiting.append(_chosen(chunk.at(chunk.classes == 1) if alone else chunk, most, seed))
            rows += len(waiting[-1].ids)
            if rows > limit:
                kept = _chosen(_joined([kept, *waiting]), most, seed)
                waiting, rows, limit = [], 0, max(_CHUNK_ROWS, len(kept.ids))
        return _chosen(_joined([kept, *waiting]), most, seed)

    def _chunks(self, file: dict[str, Any], label: int | None = None) -> Iterator[Named]:
        """Yields the rows of a file; only of the row groups that may have the class, if one is given."""
        path = storage.join(self.folder, file["name"])
        origin = {"config_hash": self.config_hash}
        with schemas.open_parquet(path, schemas.CONCEPT_ROWS.names, origin, file["footer_sha256"]) as parquet:
            groups = [g for g in range(parquet.num_row_groups) if label is None or _may_have(parquet, g, label)]
            if groups:
                for batch in parquet.iter_batches(_CHUNK_ROWS, groups, schemas.CONCEPT_ROWS.names):
                    yield Named(*(batch.column(name).to_numpy() for name in schemas.CONCEPT_ROWS.names))

    def _read(self, file: dict[str, Any], schema: pa.Schema) -> pa.Table:
        path = storage.join(self.folder, file["name"])
        return schemas.read(path, schema.names, {"config_hash": self.config_hash}, file["footer_sha256"])


_NONE = Named(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int32))


def _joined(parts: Sequence[Named]) -> Named:
    return Named(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _chosen(named: Named, most: int, seed: int) -> Named:
    """Returns the `most` rows of each class with the smallest numbers drawn, ascending by class, then by id."""
    places = drawing.least(named.labels, drawing.drawn(named.ids, seed), most)
    return named.at(places[np.lexsort((named.ids[places], named.labels[places]))])


def _may_have(parquet: Any, group: int, label: int) -> bool:
    place = parquet.schema_arrow.names.index("label")
    known = parquet.metadata.row_group(group).column(place).statistics
    return bool(known is None or not known.has_min_max or known.min <= label <= known.max)
