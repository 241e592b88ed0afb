"""The last step of the neighbours job: writes each memory row that some list names once, with all its columns."""

from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import pyarrow as pa

from index.lists.background import Behind
from index.lists.layout import MEMORY, NeighborJob
from index.lists.step import union
from pipelines import schemas, storage
from pipelines.errors import UserError

# Memory shards that are read and written at a time.
_THREADS = 2


class GatherRows(beam.DoFn):
    """Copies the rows of a memory shard that some list names."""

    def __init__(self, job: NeighborJob) -> None:
        """Keeps what workers need."""
        self._job = job

    def setup(self) -> None:
        """Opens the memory."""
        self._memory = self._job.open_embeddings(self._job.memory)
        self._names = {facts["number"]: name for name, facts in self._memory.shard_facts.items()}
        infos = self._memory.encoders
        dtype = self._memory.encoder("key").dtype
        self._columns = schemas.embeddings({role: info.dim for role, info in infos.items()}, dtype).names

    def start_bundle(self) -> None:
        """Starts the threads."""
        self._behind = Behind(_THREADS)

    def process(self, item: tuple[int, Iterable[bytes]]) -> None:
        """Begins to write the named rows of a memory shard, ascending by id."""
        shard, lists = item
        if shard not in self._names or not self._job.is_done(storage.join(MEMORY, self._names[shard])):
            wanted = union([np.frombuffer(ids, np.int64) for ids in lists])
            self._behind.do(self.gather, shard, wanted)

    def finish_bundle(self) -> None:
        """Waits until everything is written."""
        self._behind.finish()

    def gather(self, shard: int, wanted: np.ndarray) -> None:
        """Writes the rows of a memory shard that have the wanted ids, int64 `[n]`, ascending."""
        if shard in self._names:
            table = self._memory.read(shard, self._columns)
            ids = table["id"].to_numpy()
            order = np.argsort(ids, kind="stable")
            rows = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)] if len(ids) else order
            if np.array_equal(ids[rows], wanted):
                name = storage.join(MEMORY, self._names[shard])
                self._job.write_output(name, table.take(pa.array(rows)), {"shard": shard})
                return
        raise UserError(
            f"{self._job.index}: names rows that shard {shard} of {self._job.memory} does not have; "
            "run web-memory reindex --compact to rebuild"
        )
