"""The last step of the neighbours job: each row of the memory that some list names, once, with all its columns."""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from index.neighbors_plan import MEMORY, Job
from pipelines import schemas, storage
from pipelines.errors import UserError


class GatherRows(beam.DoFn):
    """Copies the rows of a memory shard that some list names."""

    def __init__(self, job: Job) -> None:
        """Keeps what workers need."""
        self._job = job

    def setup(self) -> None:
        """Opens the memory."""
        self._memory = self._job.open_embeddings(self._job.memory)
        self._names = {facts["number"]: name for name, facts in self._memory.shard_facts.items()}
        infos = self._memory.encoders
        dtype = self._memory.encoder("key").dtype
        self._columns = schemas.embeddings({role: info.dim for role, info in infos.items()}, dtype).names

    def process(self, item: tuple[int, Iterable[bytes]]) -> Iterator[int]:
        """Writes the named rows of a memory shard, ascending by id, and yields its number."""
        shard, lists = item
        name = storage.join(MEMORY, self._names.get(shard, ""))
        if shard not in self._names or not self._job.is_done(name):
            wanted = np.unique(np.concatenate([np.frombuffer(ids, np.int64) for ids in lists]))
            self._job.write_output(name, self._read(shard, wanted), {"shard": shard})
        yield shard

    def _read(self, shard: int, wanted: np.ndarray) -> pa.Table:
        if shard in self._names:
            table = self._memory.read(shard, self._columns)
            ids = table["id"].to_numpy()
            order = np.argsort(ids, kind="stable")
            rows = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)] if len(ids) else order
            if np.array_equal(ids[rows], wanted):
                return table.take(pa.array(rows))
        raise UserError(
            f"{self._job.index}: names rows that shard {shard} of {self._job.memory} has not; "
            "run pipelines.reindex --compact to build anew"
        )
