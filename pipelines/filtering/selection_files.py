"""The last steps of a selection: the file of each shard's dropped rows, and `selection.json`, which makes it valid."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines import schemas, storage
from pipelines.filtering import dropped, selection
from pipelines.filtering.dropped import REASONS
from pipelines.filtering.selection import Compared, DroppedShard, Example, Listed, SelectionJob
from pipelines.filtering.unwanted import opt_out
from pipelines.filtering.unwanted.opt_out import OptOut
from pipelines.manifest import Embeddings

SCREENED = "_screened"
_EXAMPLES, _KEPT = 4, 50
# Entries of the opt-out list that no row meets, of which this many are shown.
_UNMET = 3

Packed = tuple[int, bytes]
Facts = tuple[str, tuple[DroppedShard | Compared, bytes]]


class WriteShard(beam.DoFn):
    """Writes the dropped rows of a shard."""

    def __init__(self, job: SelectionJob) -> None:
        """Keeps what workers need."""
        self._job = job
        self._names = {shard.number: shard.name for shard in job.memory.shards}

    def process(self, item: tuple[int, Iterable[bytes]]) -> Iterator[tuple[str, tuple[DroppedShard, bytes]]]:
        """Writes the file of a shard, and yields its facts and examples."""
        number, parts = item
        rows, name = dropped.merge(parts), self._names[number]
        path = storage.join(self._job.folder, f"{name}.parquet")
        schemas.write(path, dropped.to_table(rows, list(self._job.splits)), self._job.metadata)
        counts = {reason: int((rows["reason"] == place).sum()) for place, reason in enumerate(REASONS)}
        counts = {reason: count for reason, count in counts.items() if count}
        yield selection.FILE, (DroppedShard(number, name, counts, storage.sha256(path)), _examples(rows).tobytes())


def _examples(rows: np.ndarray) -> np.ndarray:
    """Returns the few records of the lowest similarity for each reason with twins, to judge the threshold by."""
    rows = rows[rows["folder"] >= 0]
    rows = rows[np.lexsort((rows["id"], rows["similarity"], rows["reason"]))]
    place = np.arange(len(rows)) - np.searchsorted(rows["reason"], rows["reason"])
    return rows[place < _EXAMPLES]


def nearest(rows: np.ndarray) -> np.ndarray:
    """Returns the records that are nearest to being copies: by their pixels, then those without, by their cosines."""
    unseen = np.isnan(rows["pixels"])
    order = np.lexsort((rows["id"], -rows["similarity"], -np.where(unseen, 0, rows["pixels"]), unseen))
    return rows[order][:_KEPT]


class WriteSelection(beam.DoFn):
    """Writes `selection.json` once every shard has its file."""

    def __init__(self, job: SelectionJob) -> None:
        """Keeps what workers need."""
        self._job = job

    def process(self, item: tuple[str, Iterable[tuple[DroppedShard | Compared, bytes]]], met: Iterable[bytes]) -> None:
        """Takes the facts and examples of all shards, and the entries of the opt-out list that rows meet."""
        shards: list[DroppedShard] = []
        compared, examples, near = Compared(), [b""], [b""]
        for facts, records in item[1]:
            if isinstance(facts, DroppedShard):
                shards.append(facts)
                examples.append(records)
            else:
                compared += facts
                near.append(records)
        rows = _examples(np.frombuffer(b"".join(examples), dropped.RECORD))
        kept = nearest(np.frombuffer(b"".join(near), dropped.RECORD))
        storage.remove(storage.join(self._job.folder, SCREENED))
        members = self._members(np.concatenate([rows, kept]))
        dropped_pairs, kept_pairs = ([self._named(row, members) for row in records] for records in (rows, kept))
        listed = self._listed(met) if self._job.opt_out else None
        selection.write(self._job, shards, dropped_pairs, kept_pairs, compared, listed)

    def _listed(self, met: Iterable[bytes]) -> Listed:
        whole = OptOut.load(self._job.opt_out)
        unmet = whole.unmet(np.frombuffer(b"".join(met), "S32"))
        return Listed(len(whole), len(unmet), tuple(opt_out.first_lines(self._job.opt_out, unmet, _UNMET)))

    def _named(self, row: Any, members: Mapping[tuple[int, int], str]) -> Example:
        id_, folder, twin = int(row["id"]), int(row["folder"]), int(row["twin"])
        return Example(
            REASONS[row["reason"]],
            round(float(row["similarity"]), 6),
            None if np.isnan(row["pixels"]) else round(float(row["pixels"]), 6),
            id_,
            members[0, id_],
            ["memory", *self._job.splits][folder],
            twin,
            members[folder, twin],
        )

    def _members(self, rows: np.ndarray) -> dict[tuple[int, int], str]:
        """Returns the names of rows and twins by folder (0 for the memory) and id; reads each shard once."""
        pairs = [(0, int(row)) for row in rows["id"]] + [(int(row["folder"]), int(row["twin"])) for row in rows]
        names: dict[tuple[int, int], str] = {}
        for folder, number in sorted({(folder, id_ >> schemas.ROW_BITS) for folder, id_ in pairs}):
            wanted = np.array(sorted({id_ for other, id_ in pairs if other == folder}), np.int64)
            for table in self._tables(folder, number):
                ids = table["id"].to_numpy()
                places = np.flatnonzero(np.isin(ids, wanted))
                found = zip(ids[places].tolist(), table["member"].take(pa.array(places)).to_pylist(), strict=True)
                names |= {(folder, id_): str(member) for id_, member in found}
        return names

    def _tables(self, folder: int, number: int) -> Iterable[pa.Table | pa.RecordBatch]:
        if folder:
            return [Embeddings(list(self._job.splits.values())[folder - 1]).read(number, ["id", "member"])]
        shard = next(shard for shard in self._job.memory.shards if shard.number == number)
        return self._job.memory.blocks(shard, ["id", "member"])
