"""The folder of concepts: segments of the memory, the files of each, and how the folder is finished.

    stage.json                 what decides its bytes
    names.parquet              each synonym of each class, and how many captions name it
    classes.parquet            each class, and how many captions name it
    rows/00000-000.parquet     class and memory row of each match, by class, then row (`schemas.concept_rows`)
    complete.json              written last (`manifest.Concepts` reads it)
    _parts/..                  marker and counts of each finished segment, until the folder is complete

A segment is a few consecutive shards of the memory, so that a class has a few runs of rows, ascending by id, and no
more than one segment is held in memory.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from configs.base import Places
from pipelines import class_names, manifest, mentions, schemas, storage
from pipelines.errors import UserError, command
from pipelines.manifest import Embeddings

STAGE = "pipelines.concepts"
SEGMENT_ROWS = 1 << 19
"""Rows of the memory that end a segment; part of the identity, since they decide which files there are."""
PART_ROWS = 1 << 22
"""Matches of a segment that are held at a time; captions that name very many classes make more files of rows."""

_PARTS, _ROWS, _NAMES, _CLASSES = "_parts", "rows", "names.parquet", "classes.parquet"
_AGAIN = f"remove it and run {command(STAGE)} again"
_MARKER = {"files": [manifest.LIST_FILE], "captions": int, "named": int, "counts_sha256": str}


@dataclasses.dataclass(frozen=True)
class ConceptJob:
    """All that a worker needs.

    Attributes:
        folder: of the concepts.
        memory: folder of the memory.
        snapshot: of the memory.
        names: of the C classes.
        segments: numbers of the memory's shards in each, all ascending.
        config_hash: of the folder.
        part_rows: matches of a segment that are sorted and written together.
    """

    folder: str
    memory: str
    snapshot: str
    names: tuple[str, ...]
    segments: tuple[tuple[int, ...], ...]
    config_hash: str
    part_rows: int = PART_ROWS

    def open_memory(self) -> Embeddings:
        """Opens the memory; a `UserError` if it has changed since the job was planned."""
        memory = Embeddings(self.memory)
        if memory.snapshot != self.snapshot:
            raise UserError(f"{self.memory}: has changed while its captions were read; run {command(STAGE)} again")
        return memory

    def is_claimed(self) -> bool:
        """Tells whether the folder is of this memory and these names."""
        path = storage.join(self.folder, manifest.STAGE_FILE)
        return storage.exists(path) and manifest.fingerprint(manifest.read_identity(self.folder)) == self.config_hash

    def is_complete(self) -> bool:
        """Tells whether the folder is finished and has all its files."""
        if not storage.exists(storage.join(self.folder, manifest.COMPLETE_FILE)):
            return False
        files = manifest.Concepts.open(self.folder).files
        return all(storage.exists(storage.join(self.folder, file["name"])) for file in files)

    def is_done(self, segment: int) -> bool:
        """Tells whether a segment has its marker, and every file that it names."""
        return storage.exists(self._marker_path(segment)) and all(
            storage.exists(storage.join(self.folder, file["name"])) for file in self._marker(segment)["files"]
        )

    def write_rows(self, segment: int, part: int, table: pa.Table) -> dict[str, Any]:
        """Writes rows of a segment, sorted by class and id, and returns name, rows and digests of the file."""
        return self._write(f"{_ROWS}/{segment:05d}-{part:03d}.parquet", table)

    def write_segment(
        self, segment: int, files: list[dict[str, Any]], facts: Mapping[str, int], counts: np.ndarray
    ) -> None:
        """Writes the counts of a segment, then its marker.

        Args:
            segment: its number.
            files: of its rows.
            facts: its `captions`, and how many of them are `named`.
            counts: captions that name each of the N names, then each of the C classes, int64 `[N + C]`.
        """
        table = pa.table({"captions": pa.array(counts, pa.int64())})
        schemas.write(self._counts_path(segment), table, {"config_hash": self.config_hash})
        marker = {"files": files, **facts, "counts_sha256": storage.sha256(self._counts_path(segment))}
        storage.write_json(self._marker_path(segment), marker)

    def finish(self) -> None:
        """Adds up the counts of all segments, writes the tables and `complete.json`, and removes the parts."""
        self.open_memory()
        names = mentions.Names(self.names)
        markers = [self._marker(segment) for segment in range(len(self.segments))]
        counts = np.zeros(len(names.names) + names.classes, np.int64)
        for segment, marker in enumerate(markers):
            path = self._counts_path(segment)
            storage.check_sha256(path, marker["counts_sha256"], _AGAIN)
            counts += schemas.read(path, ["captions"], {"config_hash": self.config_hash})["captions"].to_numpy()
        of_names, of_classes = np.split(counts, [len(names.names)])
        files = [
            self._write(_NAMES, _counted(names.labels, names.names, of_names)),
            self._write(_CLASSES, _counted(np.arange(names.classes), self.names, of_classes)),
            *(file for marker in markers for file in marker["files"]),
        ]
        whole = {
            "config_hash": self.config_hash,
            "files": files,
            "fingerprint": manifest.fingerprint([self.config_hash, files]),
            "captions": sum(marker["captions"] for marker in markers),
            "named": sum(marker["named"] for marker in markers),
        }
        storage.write_json(storage.join(self.folder, manifest.COMPLETE_FILE), whole)
        storage.remove(storage.join(self.folder, _PARTS))

    def _write(self, name: str, table: pa.Table) -> dict[str, Any]:
        path = storage.join(self.folder, name)
        schemas.write(path, table, {"config_hash": self.config_hash})
        digests = {"sha256": storage.sha256(path), "footer_sha256": schemas.footer_sha256(path)}
        return {"name": name, "rows": table.num_rows, **digests}

    def _marker_path(self, segment: int) -> str:
        return storage.join(self.folder, _PARTS, f"{segment:05d}.json")

    def _counts_path(self, segment: int) -> str:
        return storage.join(self.folder, _PARTS, f"{segment:05d}.parquet")

    def _marker(self, segment: int) -> dict[str, Any]:
        marker = schemas.read_json(self._marker_path(segment), _MARKER, _AGAIN)
        for file in marker["files"]:
            storage.inside(self.folder, file["name"])
        return marker


def _counted(labels: np.ndarray, names: Any, captions: np.ndarray) -> pa.Table:
    columns = [pa.array(labels, pa.int32()), pa.array(names, pa.string()), pa.array(captions, pa.int64())]
    return pa.Table.from_arrays(columns, schema=schemas.CONCEPT_COUNTS)


def describe(places: Places, segment_rows: int = SEGMENT_ROWS) -> ConceptJob:
    """Returns the job that finds the classes of a memory's captions, and writes nothing.

    Args:
        places: of the memory, the class names and the concepts.
        segment_rows: rows that end a segment.

    Raises:
        UserError: if the memory is not embedded, or no class has a name.
    """
    memory, names = Embeddings(places.memory), class_names_of(places)
    segments: list[list[int]] = []
    rows = segment_rows
    for number, added in memory.shard_rows.items():
        if rows >= segment_rows:
            segments.append([])
            rows = 0
        segments[-1].append(number)
        rows += added
    job = ConceptJob(places.concepts, memory.folder, memory.snapshot, tuple(names), tuple(map(tuple, segments)), "")
    return dataclasses.replace(job, config_hash=manifest.config_hash(STAGE, _identity(job, segment_rows)))


def claim(places: Places, segment_rows: int = SEGMENT_ROWS) -> ConceptJob:
    """Returns the job of `describe`, and claims its folder; what the folder had of another memory or names is deleted.

    Raises:
        UserError: as `describe`, or if the folder is of another stage.
    """
    job = describe(places, segment_rows)
    identity = _identity(job, segment_rows)
    if storage.exists(storage.join(job.folder, manifest.STAGE_FILE)):
        before = manifest.read_identity(job.folder)
        if before["stage"] == STAGE and manifest.is_claimed_by_another(job.folder, STAGE, identity):
            # First what makes the folder readable, last what says whose it is.
            for name in (manifest.COMPLETE_FILE, _PARTS, _ROWS, _NAMES, _CLASSES, manifest.STAGE_FILE):
                storage.remove(storage.join(job.folder, name))
    manifest.claim(job.folder, STAGE, identity)
    manifest.write_config(job.folder, places.config)
    storage.remove_temporaries(job.folder)
    return job


def _identity(job: ConceptJob, segment_rows: int) -> dict[str, Any]:
    """Returns everything that decides the bytes of the folder."""
    return {
        "memory": job.snapshot,
        "names": manifest.fingerprint(list(job.names)),
        "rules": mentions.RULES,
        "segment_rows": segment_rows,
    }


def class_names_of(places: Places) -> list[str]:
    """Returns the names of the classes: those of the config's file, otherwise those of the training set's labels.

    Raises:
        UserError: if there are none, or the file or the training set cannot be read.
    """
    if places.class_names:
        path = storage.join(places.data, places.class_names)
        if names := class_names.read(path):
            return names
        raise UserError(f"{path}: has no names; write the name of a class on each line")
    if names := Embeddings(places.queries("train")).class_names:
        return names
    raise UserError(
        f"{places.queries('train')}: its labels are numbers, so that there is no name to look for; set "
        "--config.class_names to a file with a name a line"
    )
