"""Looks up the neighbours of every query as a Beam job: search, merge, gather.

    (index shard, blocks of queries) --SearchShard--> one part file for each shard and block
    block --MergeBlock--> its neighbour file and marker
    memory shard --GatherRows--> the rows that some list names, and a marker

Between the steps only names and ids travel; lists and rows lie in files, where a killed job finds them again. The
bytes of a file depend on nothing but the inputs. Where files lie is left to `neighbors_plan`.
"""

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from index import keys, searcher
from index.lookup import Lookup
from index.neighbors_plan import MEMORY, Block, Job
from index.reader import Index
from pipelines import manifest, runner, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.progress import Stage

# An index shard is loaded once for so many blocks: few enough to spread over workers, enough to pay for the loading.
_BLOCKS_PER_ITEM = 64


class SearchShard(beam.DoFn):
    """Searches blocks of queries in one index shard, which is loaded once and only if a block needs it."""

    def __init__(self, job: Job) -> None:
        """Keeps what workers need."""
        self._job = job

    def process(self, item: tuple[int, tuple[int, ...]]) -> Iterator[tuple[int, int]]:
        """Writes the missing parts of an index shard and yields (block, index shard) for each block."""
        shard, numbers = item
        missing = [block for block in (self._job.blocks[n] for n in numbers) if not self._is_done(shard, block)]
        if missing:
            lookup = Lookup(Index.open(self._job.index).load(shard))
            for name in dict.fromkeys(block.split for block in missing):
                self._search_split(shard, lookup, name, [block for block in missing if block.split == name])
        for number in numbers:
            yield number, shard

    def _is_done(self, shard: int, block: Block) -> bool:
        return storage.exists(self._job.part_path(shard, block.name)) or self._job.is_done(block.name)

    def _search_split(self, shard: int, lookup: Lookup, split: str, blocks: list[Block]) -> None:
        queries = Embeddings(self._job.queries[split])
        info, opened, table = queries.encoder("key"), -1, None
        for block in blocks:
            if block.shard != opened:
                opened, table = block.shard, queries.read(block.shard, ["id", "label", "content_key", "key"])
            rows = table.slice(block.begin, block.end - block.begin)  # type: ignore[union-attr]
            vectors = keys.unit_keys(rows["key"], info, f"{queries.folder}, shard {block.shard}")
            images = keys.content_keys(rows["content_key"]) if self._job.exclude_same_image else None
            ids, scores, excluded = lookup.search(vectors, self._job.k, images)
            self._job.write_part(shard, block.name, _lists(rows["id"], rows["label"], ids, scores, excluded))


def _lists(
    query_ids: pa.ChunkedArray, labels: pa.ChunkedArray, ids: np.ndarray, scores: np.ndarray, excluded: np.ndarray
) -> pa.Table:
    """Returns lists `[Q, k]` as a table of `schemas.neighbors`."""
    schema = schemas.neighbors(ids.shape[1])
    columns = {
        "query_id": query_ids.combine_chunks(),
        "label": labels.combine_chunks(),
        "neighbor_ids": schemas.fixed_list(ids, schema.field("neighbor_ids")),
        "scores": schemas.fixed_list(scores, schema.field("scores")),
        "num_valid": pa.array((ids >= 0).sum(axis=1), pa.int32()),
        "num_excluded": pa.array(excluded, pa.int32()),
    }
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


class MergeBlock(beam.DoFn):
    """Merges the parts of a block over all index shards."""

    def __init__(self, job: Job) -> None:
        """Keeps what workers need."""
        self._job = job

    def process(self, item: tuple[int, Iterable[int]]) -> Iterator[tuple[int, bytes]]:
        """Writes a block's lists and yields (memory shard, int64 ids named in it)."""
        name = self._job.blocks[item[0]].name
        if not self._job.is_done(name):
            self._merge(name, sorted(item[1]))
        lists = self._job.read(self._job.output_path(name), ["neighbor_ids"])
        named = np.unique(schemas.to_matrix(lists["neighbor_ids"]))
        named = named[named >= 0]
        shards, _ = schemas.split_ids(named)
        for shard in np.unique(shards):
            yield int(shard), named[shards == shard].tobytes()

    def _merge(self, name: str, shards: Sequence[int]) -> None:
        k = self._job.k
        parts = [self._job.read(self._job.part_path(s, name), schemas.neighbors(k).names) for s in shards]
        pairs = [(schemas.to_matrix(p["neighbor_ids"]), schemas.to_matrix(p["scores"])) for p in parts]
        ids, scores = searcher.merge(pairs, k)
        excluded = np.sum([part["num_excluded"].to_numpy() for part in parts], axis=0)
        listed = ids[:, 0] >= 0
        facts = {
            "listed": int(listed.sum()),
            "top_score_sum": float(scores[listed, 0].sum(dtype=np.float64)),
            "excluded": int(excluded.sum()),
        }
        self._job.write_output(name, _lists(parts[0]["query_id"], parts[0]["label"], ids, scores, excluded), facts)


class GatherRows(beam.DoFn):
    """Copies the rows of a memory shard that some list names."""

    def __init__(self, job: Job) -> None:
        """Keeps what workers need."""
        self._job = job

    def setup(self) -> None:
        """Opens the memory."""
        self._memory = Embeddings(self._job.memory)
        _, whole = manifest.read_complete(self._job.memory, "pipelines.embed")
        self._names = {shard["number"]: shard["name"] for shard in whole["shards"]}
        infos = self._memory.encoders
        dtype = self._memory.encoder("key").dtype
        self._columns = schemas.embeddings({role: info.dim for role, info in infos.items()}, dtype).names

    def process(self, item: tuple[int, Iterable[bytes]]) -> Iterator[int]:
        """Writes the named rows of a memory shard, ascending by id, and yields its number."""
        shard, lists = item
        name = storage.join(MEMORY, self._names[shard])
        if not self._job.is_done(name):
            wanted = np.unique(np.concatenate([np.frombuffer(ids, np.int64) for ids in lists]))
            table = self._memory.read(shard, self._columns)
            table = table.take(pa.array(self._rows(shard, table["id"].to_numpy(), wanted)))
            self._job.write_output(name, table, {"shard": shard})
        yield shard

    def _rows(self, shard: int, ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        order = np.argsort(ids, kind="stable")
        rows = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
        if not np.array_equal(ids[rows], wanted):
            raise UserError(
                f"{self._job.index}: names rows that shard {shard} of {self._job.memory} has not; build anew"
            )
        return rows


def run(job: Job, beam_args: Sequence[str], stage: Stage) -> None:
    """Looks up what is missing.

    Raises:
        UserError: as a worker raised it.
    """
    storage.remove(storage.join(job.folder, manifest.COMPLETE_FILE))
    storage.remove_temporaries(job.folder)
    numbers = tuple(range(len(job.blocks)))
    groups = [numbers[i : i + _BLOCKS_PER_ITEM] for i in range(0, len(numbers), _BLOCKS_PER_ITEM)]
    items = [(shard, group) for shard in range(job.shards) for group in groups]

    def build(pipeline: beam.Pipeline) -> None:
        _ = (
            pipeline
            | "Items" >> beam.Create(items)
            | "Spread" >> beam.Reshuffle()
            | "Search" >> beam.ParDo(SearchShard(job))
            | "By block" >> beam.GroupByKey()
            | "Merge" >> beam.ParDo(MergeBlock(job))
            | "By memory shard" >> beam.GroupByKey()
            | "Gather" >> beam.ParDo(GatherRows(job))
        )

    runner.run(build, beam_args, stage, job.progress)
