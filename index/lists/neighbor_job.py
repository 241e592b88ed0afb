"""Looks up the neighbours of all queries as a Beam job: route, search, merge, gather.

    group of blocks --Route--> the queries that visit each index shard
    (index shard, groups) --SearchShard--> one file of lists for each group and index shard
    group --MergeGroup--> the neighbour file and marker of each block
    memory shard --GatherRows--> the rows that some list names, and a marker

Only names and ids travel between the steps. Queries, lists and rows are in files, from which a killed job resumes:

    _parts/{group}/routed.json              rows that visit each index shard; written last by Route
    _parts/{group}/queries-00003.parquet    those rows, of a shard that is a region or that not every query visits
    _parts/{group}/lists-00003.parquet      their lists in that shard
    _parts/{group}/kept.parquet             lists of the version before that are kept

If an index has one shard and no lists are kept, `direct` writes the blocks as they are found:

    group of blocks --LookUp--> the neighbour file and marker of each block
    memory shard --GatherRows--> the rows that some list names, and a marker

The bytes of an output depend on the inputs only. See `layout` for the files, and `gather` for the last step.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from index.lists import background, layout
from index.lists.claim import group_rows
from index.lists.direct import LookUp
from index.lists.gather import GatherRows
from index.lists.layout import Group, NeighborJob
from index.lists.naming import NamedLists
from index.lists.patch import Patch
from index.lists.step import BATCH_ROWS, Step, by_memory_shard, distinct
from index.store import keys
from index.store.hits import Find, Hits, complete
from index.store.lookup import Lookup
from index.store.routing import Visits
from pipelines import manifest, schemas, storage
from pipelines.nearest_neighbors import BestLists
from pipelines.runner import Runner

_ROUTED, _KEPT = "routed.json", "kept.parquet"
# Queries of a work item, for which an index shard is loaded once: few enough to spread over workers, enough to pay for
# loading.
_ITEM_QUERIES = 1 << 18


def _routed_rows(marker: str) -> list[int]:
    """Returns the number of queries that visit each index shard, as `Route` wrote it."""
    rows: list[int] = schemas.read_json(marker, {"rows": [int]}, layout.AGAIN)["rows"]
    return rows


def _queries_name(shard: int) -> str:
    return f"queries-{shard:05d}.parquet"


def _lists_name(shard: int) -> str:
    return f"lists-{shard:05d}.parquet"


def _dealt_schema(dim: int) -> pa.Schema:
    return pa.schema(
        [
            pa.field("place", pa.int32(), nullable=False),
            pa.field("id", pa.int64(), nullable=False),
            pa.field("content_key", schemas.DIGEST, nullable=False),
            pa.field("key", pa.list_(pa.float32(), dim), nullable=False),
            pa.field("leaves", pa.int32(), nullable=False),
            pa.field("share", pa.float32(), nullable=False),
        ]
    )


def _part_schema(k: int) -> pa.Schema:
    names = ("neighbor_ids", "scores", "num_excluded")
    fields = [schemas.neighbors(k).field(name) for name in names]
    return pa.schema([pa.field("place", pa.int32(), nullable=False), *fields])


def _part(places: np.ndarray, ids: np.ndarray, scores: np.ndarray, excluded: np.ndarray) -> pa.Table:
    """Returns lists `[Q, k]` of the queries at some places of a group."""
    schema = _part_schema(ids.shape[1])
    columns = [
        pa.array(places, pa.int32()),
        schemas.fixed_list(ids, schema.field("neighbor_ids")),
        schemas.fixed_list(scores, schema.field("scores")),
        pa.array(excluded, pa.int32()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


@dataclasses.dataclass(frozen=True)
class _Dealt:
    """The visits of a block to all shards, by shard; most queries visit few.

    Attributes:
        places: int32 `[v]`, of the queries in their group.
        leaves: int32 `[v]`.
        shares: float32 `[v]`.
        ends: int64 `[shards + 1]`, where the visits to each shard end, after a 0.
    """

    places: np.ndarray
    leaves: np.ndarray
    shares: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, visits: Visits, begin: int) -> "_Dealt":
        """Returns the visits of queries whose places in their group begin at a number."""
        shard, query = np.nonzero(visits.leaves.T)
        ends = np.searchsorted(shard, np.arange(visits.leaves.shape[1] + 1))
        return cls((begin + query).astype(np.int32), visits.leaves[query, shard], visits.shares[query, shard], ends)

    def of_shard(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns places, leaves and shares of the visits to a shard."""
        inside = slice(self.ends[number], self.ends[number + 1])
        return self.places[inside], self.leaves[inside], self.shares[inside]


class Route(Step):
    """Deals the queries of a group out to the index shards that they visit."""

    def setup(self) -> None:
        """Opens the index, and reads what has been removed from it since the lists to patch were looked up."""
        super().setup()
        self._patch = Patch(self._index, self._job.previous_facts()) if self._job.previous else None

    def process(self, number: int) -> Iterator[tuple[tuple[int, int], tuple[int, bool]]]:
        """Writes the queries of a group and yields ((index shard, item), (group, whether all its queries visit))."""
        group = self._job.groups[number]
        if all(self._job.is_done(block.name) for block in group.blocks):
            return
        marker = self._job.part_path(group, _ROUTED)
        if not storage.exists(marker):
            storage.write_json(marker, {"rows": self.route(group)})
        for shard, rows in enumerate(_routed_rows(marker)):
            if rows:
                is_whole = rows == group.rows and not self._index.shards[shard].is_region
                yield (shard, number // self._span(shard)), (number, is_whole)

    def _span(self, shard: int) -> int:
        """Returns the number of groups in a work item."""
        index = self._index
        is_delta = index.shards[shard].is_delta
        share = 1.0 if is_delta else max(index.facts["search"]["visits"] / len(index.shards), 1e-3)
        return max(1, round(_ITEM_QUERIES / (group_rows(index.key_encoder.dim, self._job.k) * share)))

    def route(self, group: Group) -> list[int]:
        """Writes queries and kept lists; returns the number of queries that visit each index shard."""
        index, patch = self._index, self._patch
        if not patch and not any(record.is_region for record in index.shards):
            return [group.rows] * len(index.shards)
        tables, visits, kept, begin = [], [], [], 0
        schema = pa.schema(list(_dealt_schema(index.key_encoder.dim))[:-2])
        for block, rows in self._job.read_queries(group, list(keys.COLUMNS)):
            vectors, places = self._vectors(block, rows), np.arange(begin, begin + block.rows)
            visited = index.visits(vectors, index.growth(self._by_name.depth if self._by_name else self._job.k))
            if patch:
                lists = self._job.read_previous(block.name, rows["id"])
                named = schemas.to_matrix(lists["neighbor_ids"])
                keeps = patch.keeps(named, self._images(group.split, rows["content_key"]))
                visited.leaves[keeps, : patch.old_shards] = 0
                scores, excluded = schemas.to_matrix(lists["scores"]), lists["num_excluded"].to_numpy()
                kept.append(_part(places[keeps], named[keeps], scores[keeps], excluded[keeps]))
            columns = [pa.array(places, pa.int32()), rows["id"].combine_chunks(), rows["content_key"].combine_chunks()]
            columns.append(schemas.fixed_list(vectors, schema.field("key")))
            tables.append(pa.Table.from_arrays(columns, schema=schema))
            visits.append(_Dealt.of(visited, begin))
            begin += block.rows
        if patch:
            self._job.write_part(group, _KEPT, pa.concat_tables(kept))
        return self._deal(group, pa.concat_tables(tables), visits)

    def _deal(self, group: Group, queries: pa.Table, visits: Sequence["_Dealt"]) -> list[int]:
        rows, schema = [], _dealt_schema(self._index.key_encoder.dim)
        for shard, record in enumerate(self._index.shards):
            parts = [block.of_shard(shard) for block in visits]
            places, leaves, shares = (np.concatenate(values) for values in zip(*parts, strict=True))
            # A shard that is no region and that every query visits reads the queries' own files.
            if 0 < len(places) < group.rows or (len(places) and record.is_region):
                columns = [*queries.take(pa.array(places)).columns, pa.array(leaves), pa.array(shares)]
                self._job.write_part(group, _queries_name(shard), pa.Table.from_arrays(columns, schema=schema))
            rows.append(len(places))
        return rows


class SearchShard(Step):
    """Searches groups of queries in one index shard, which is loaded once, and only if a group needs it."""

    def process(self, item: tuple[tuple[int, int], Iterable[tuple[int, bool]]]) -> Iterator[tuple[int, int]]:
        """Writes the missing lists of an index shard and yields (group, index shard) for each group."""
        (shard, _), groups = item
        lookup: Lookup | None = None
        for number, is_whole in sorted(groups):
            group = self._job.groups[number]
            if not storage.exists(self._job.part_path(group, _lists_name(shard))):
                lookup = lookup or self._load(shard)
                self.search(lookup, group, shard, is_whole)
            yield number, shard

    def search(self, lookup: Lookup, group: Group, shard: int, is_whole: bool) -> None:
        """Writes the lists of a group in an index shard; `is_whole` if all its queries visit it."""
        path, metadata = self._job.part_path(group, _lists_name(shard)), {"config_hash": self._job.config_hash}
        with schemas.writer(path, _part_schema(self._job.k), metadata) as parquet:
            asked = self._whole(group) if is_whole else self._dealt(group, shard)
            for places, vectors, rows in background.ahead(asked):
                scanned = {}
                if self._index.shards[shard].is_region:
                    scanned = {"leaves": rows["leaves"].to_numpy(), "shares": rows["share"].to_numpy()}
                part = _part(places, *self._find(lookup, group.split, vectors, rows, **scanned))
                parquet.write_table(part.replace_schema_metadata(parquet.schema.metadata))

    def _dealt(self, group: Group, shard: int) -> Iterator[tuple[np.ndarray, np.ndarray, pa.Table]]:
        path = self._job.part_path(group, _queries_name(shard))
        columns = _dealt_schema(self._index.key_encoder.dim).names
        with schemas.open_parquet(path, columns, {"config_hash": self._job.config_hash}) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                rows = pa.Table.from_batches([batch])
                yield rows["place"].to_numpy(), schemas.to_matrix(rows["key"]), rows


class MergeGroup(Step):
    """Merges the lists that a group has in all index shards."""

    def process(self, item: tuple[int, Iterable[int]]) -> Iterator[tuple[int, bytes]]:
        """Writes the lists of a group's blocks and yields (memory shard, int64 ids named in them)."""
        group = self._job.groups[item[0]]
        if all(self._job.is_done(block.name) for block in group.blocks):
            ids = np.concatenate([self._read_lists(block) for block in group.blocks])
        else:
            ids = self.merge(group, sorted(shard for shard in item[1] if shard >= 0))
        yield from by_memory_shard(distinct(ids))

    def merge(self, group: Group, shards: Sequence[int]) -> np.ndarray:
        """Writes the missing blocks; returns the ids `[Q, k]` of all lists."""
        k = self._job.k
        best: BestLists | NamedLists = BestLists(group.rows, k)
        if self._by_name:
            best = NamedLists(group.rows, self._by_name)
        excluded = np.zeros(group.rows, np.int32)
        if not self._by_name and any(record.is_region for record in self._index.shards):
            regions = [shard for shard in shards if self._index.shards[shard].is_region]
            found = self._of_regions(group, regions)
            best.add(found.ids, found.scores)
            excluded += found.excluded
            shards = [shard for shard in shards if shard not in regions]
        names = [*([_KEPT] if self._job.previous else []), *map(_lists_name, shards)]
        for _, places, part in self._parts(group, names):
            best.add(part.ids, part.scores, places)
            excluded[places] += part.excluded
        every = (self._load(shard) for shard in range(len(self._index.shards)))
        ids, scores = self._with_named(group.split, (best.ids, best.scores), every, self._reader(group))
        begin = 0
        with background.Behind() as behind:
            for block, rows in self._job.read_queries(group, ["id", "label"]):
                span = slice(begin, begin + block.rows)
                if not self._job.is_done(block.name):
                    behind.do(self.write_block, block, rows, ids[span], scores[span], excluded[span])
                begin += block.rows
        return ids

    def _parts(self, group: Group, names: Sequence[str]) -> Iterator[tuple[int, np.ndarray, Hits]]:
        """Yields the number of a file of lists, the places of its queries, and their lists."""
        parts = (self._job.read(self._job.part_path(group, name), _part_schema(self._job.k).names) for name in names)
        for number, part in enumerate(background.ahead(parts)):
            ids, scores = (schemas.to_matrix(part[name]) for name in ("neighbor_ids", "scores"))
            yield number, part["place"].to_numpy(), Hits(ids, scores, part["num_excluded"].to_numpy())

    def _of_regions(self, group: Group, shards: Sequence[int]) -> Hits:
        """Returns the merged lists of a group in some regions, completed."""
        index, best = self._index, BestLists(group.rows, self._job.k)
        visited, excluded = np.zeros((group.rows, len(index.shards)), bool), np.zeros(group.rows, np.int32)
        for number, places, part in self._parts(group, [_lists_name(shard) for shard in shards]):
            best.add(part.ids, part.scores, places)
            excluded[places] += part.excluded
            visited[places, shards[number]] = True
        found, asked = Hits(best.ids, best.scores, excluded), np.ones(group.rows, bool)
        if self._job.previous:
            # Kept lists are whole.
            asked[self._job.read(self._job.part_path(group, _KEPT), ["place"])["place"].to_numpy()] = False
        complete(found, np.flatnonzero(asked), visited, index.rows_of_regions, self._finder(group))
        return found

    def _reader(self, group: Group) -> Callable[[], tuple[np.ndarray, pa.Table]]:
        """Returns what reads vectors and rows of the queries of a group, the first time that it is called."""

        @functools.cache
        def read() -> tuple[np.ndarray, pa.Table]:
            _, vectors, rows = zip(*self._whole(group), strict=True)
            return np.concatenate(vectors), pa.concat_tables(rows)

        return read

    def _finder(self, group: Group) -> Find:
        """Returns what searches the whole of a shard for some queries of a group, which it reads when it is needed."""
        read = self._reader(group)

        def find(number: int, places: np.ndarray) -> tuple[np.ndarray, ...]:
            vectors, rows = read()
            return self._find(self._load(number), group.split, vectors[places], rows.take(pa.array(places)))

        return find


def run(job: NeighborJob, runner: Runner) -> None:
    """Looks up the missing lists.

    Raises:
        UserError: as a worker raised it.
    """
    if layout.is_complete(job.folder, job.config_hash, with_files=False):
        storage.remove(storage.join(job.folder, manifest.COMPLETE_FILE))
    storage.remove_temporaries(job.folder)

    def build(pipeline: beam.Pipeline) -> None:
        named = _direct(pipeline, job) if job.is_direct else _routed(pipeline, job)
        _ = named | "By memory shard" >> beam.GroupByKey() | "Gather" >> beam.ParDo(GatherRows(job))

    runner.run(build, lambda: progress(job), "loading the index")


def _direct(pipeline: beam.Pipeline, job: NeighborJob) -> beam.PCollection:
    """Returns (memory shard, ids) of all groups, which are searched in one shard and written at once."""
    numbers = pipeline | "Groups" >> beam.Create(range(len(job.groups))) | "Spread" >> beam.Reshuffle()
    return numbers | "Look up" >> beam.ParDo(LookUp(job))


def _routed(pipeline: beam.Pipeline, job: NeighborJob) -> beam.PCollection:
    """Returns (memory shard, ids) of all groups, which are searched in each index shard and merged."""
    numbers = list(range(len(job.groups)))
    # Every group is merged, or at least read, even if there is nothing to search for it.
    wanted = pipeline | "Groups" >> beam.Create([(number, -1) for number in numbers])
    found = (
        pipeline
        | "Numbers" >> beam.Create(numbers)
        | "Spread" >> beam.Reshuffle()
        | "Route" >> beam.ParDo(Route(job))
        | "By index shard" >> beam.GroupByKey()
        | "Search" >> beam.ParDo(SearchShard(job))
    )
    return (wanted, found) | beam.Flatten() | "By group" >> beam.GroupByKey() | "Merge" >> beam.ParDo(MergeGroup(job))


def progress(job: NeighborJob) -> tuple[float, int]:
    """Returns the share that is done and the number of queries searched, from the files that exist."""
    markers = storage.files(storage.join(job.home, manifest.MARKERS), ".json")
    merged = {storage.name(path).removesuffix(".json") for path in markers}
    searched = done = 0.0
    for group in job.groups:
        share = sum(block.rows for block in group.blocks if block.name in merged)
        done += share
        searched += max(share, _searched(job, group) * group.rows if share < group.rows else 0)
    whole = sum(group.rows for group in job.groups)
    return (searched + done) / (2 * whole), round(searched)


def _searched(job: NeighborJob, group: Group) -> float:
    """Returns the share of a group's visits to index shards that are done."""
    marker = job.part_path(group, _ROUTED)
    if not storage.exists(marker):
        return 0.0
    wanted = {_lists_name(shard) for shard, rows in enumerate(_routed_rows(marker)) if rows}
    found = {storage.name(path) for path in storage.files(job.part_path(group, ""), ".parquet")}
    return len(wanted & found) / max(len(wanted), 1)
