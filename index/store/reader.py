"""A finished index, opened for search.

    from index import Index

    index = Index.open("out/demo/index")
    hits = index.search(queries, k=32)       # queries [Q, d] float32, unit length
    hits.ids, hits.scores                    # [Q, 32] int64 and float32, -1 and -inf pad

    index = Index.build(vectors, recall=0.95)      # of an array [n, d], without a memory
    index.save("out/vectors")

An index of one shard and one of a thousand are searched alike. An opened index is one version of it: its results do not
change while a newer version is published beside it.
"""

import dataclasses
import functools
import importlib
import os
import tempfile
import weakref
from collections.abc import Sequence
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa

from index.store import arguments, index_manifest, records, routing, shard_store, versions
from index.store.filtered import Allowed, Asked
from index.store.hits import Hits, complete
from index.store.lookup import Lookup
from index.store.records import Point, ShardRecord
from index.store.routing import Router, Visits
from index.store.shard_store import Shard
from pipelines import schemas, storage
from pipelines.errors import UserError
from pipelines.nearest_neighbors import BestLists, merge
from pipelines.schemas import EncoderInfo

# Queries that are searched at a time.
BLOCK_QUERIES = 16_384
# Lists may be longer than the index has rows, but only up to this.
_MOST_PADDED = 1 << 12
# The queries that the index was measured on, tuning queries first, and how many of them filters are tried on.
_QUERIES_FILE, _TRIAL_QUERIES = "queries.parquet", 64
# A recall that was measured on fewer queries may be off by a few hundredths.
_FEW_QUERIES = 50
# Entry of the manifest of an array's index: whether queries are scaled to unit length, as its vectors were.
NORMALISED = "normalise"
TOMBSTONES_FILE, ROUTER_FILE = "tombstones.parquet", "router.parquet"
# Removed rows: the path of the shard, the local row, and the row's id and content key.
TOMBSTONES = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("content_key", schemas.DIGEST, nullable=False),
    ]
)


def _of_array() -> Any:
    """Returns the module that builds and saves, which stands above this one."""
    return importlib.import_module("index.building.of_array")


class Index:
    """One version of an index.

    Attributes:
        folder: of the index.
        facts: contents of the manifest.
        fingerprint: of the manifest, and through it of every file.
        version: number of the version.
        key_encoder: the encoder of the memory's keys, and so of the queries.
        memory_snapshot: fingerprint of the indexed memory.
        shards: the record of each shard.
        point: of the curve, to search at.
        router: tells which shards a query visits.
        loaded: shards that have been searched, by number.
        home: the folder of an index that is not saved, which is deleted with it.
    """

    def __init__(self, folder: str, facts: dict[str, Any], point: Point) -> None:
        """Takes a manifest; `open` reads it."""
        self.folder, self.facts, self.point = folder, facts, point
        try:
            self.fingerprint: str = facts["fingerprint"]
            self.version: int = facts["version"]
            self.key_encoder = EncoderInfo(**facts["key_encoder"])
            self.memory_snapshot: str = facts["memory"]["snapshot"]
            self.shards: list[ShardRecord] = [ShardRecord.from_json(shard) for shard in facts["shards"]]
            self._files: dict[str, dict[str, Any]] = facts["files"]
            self.regions: int = facts["regions"]
        except (KeyError, TypeError) as error:
            path = storage.join(folder, index_manifest.FILE)
            raise UserError(f"{path}: is not a manifest of this version ({error}); {self._remedy}") from error
        self._asked_recall: float | None = None
        self.loaded: dict[int, Lookup] = {}
        self._shares: list[IO[bytes]] = []
        self.home: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike[str], recall: float | None = None) -> "Index":
        """Opens the published index, without loading a shard.

        Args:
            folder: of the index.
            recall: mean recall@k to reach, looked up on the measured curve; by default the one it was tuned to.

        Raises:
            UserError: if it is unfinished or damaged, or its curve does not reach the recall.
        """
        folder, recall = arguments.path(folder), None if recall is None else arguments.recall(recall)
        facts, shares = versions.hold(folder)
        point = Point(**facts["search"])
        if recall is not None:
            k = str(facts["recall"]["k"])
            reached = [Point(**point) for point in facts["curve"] if point["recall"][k] >= recall]
            if not reached:
                best = max(point["recall"][k] for point in facts["curve"])
                raise UserError(
                    f"{folder}: recall@{k} of {recall:g} is out of reach for this index; its best is {best:.4f}"
                )
            point = min(reached, key=lambda point: point.cost)
        index = cls(folder, facts, point)
        index._shares, index._asked_recall = shares, recall
        return index

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        *,
        recall: float = 0.95,
        k: int = 10,
        ids: np.ndarray | None = None,
        queries: np.ndarray | None = None,
        normalise: bool = True,
        searcher: str = "scann",
        reorder: str = "bfloat16",
    ) -> "Index":
        """Builds an index of an array, tunes it to a recall, and measures it; it is in a temporary folder until saved.

        Args:
            vectors: float16, float32 or float64 `[n, d]`, also a mapped file, which is read a few rows at a time.
                If they are not scaled to unit length, their lengths are from 1e-12 to 1e12.
            recall: mean recall@k to reach.
            k: the k of that recall; at most n.
            ids: whole numbers `[n]`, different from each other; by default the numbers of the rows.
            queries: `[m, d]`, such as will be searched for: half of them tune the search, the others measure it. By
                default some of the vectors, each searched without itself.
            normalise: whether vectors and queries are scaled to unit length, so that scores are cosines; otherwise
                scores are dot products.
            searcher: one of `engines.searcher.KINDS`; `exact` compares a query with every vector.
            reorder: precision of the vectors that candidates are re-ranked with (`index.reorder`).

        Warns:
            UserWarning: if the recall is not reached; it says why, and what helps.

        Raises:
            UserError: if an argument is wrong, or a vector is zero, not finite or of another length; it is named by its
                row.
        """
        return cast("Index", _of_array().build(
            vectors, recall=recall, k=k, ids=ids, queries=queries, normalise=normalise, searcher=searcher,
            reorder=reorder,
        ))  # fmt: skip

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the index into a new folder, from which `open` reads it.

        Raises:
            UserError: if the folder is not empty, or a file or a link, or a file of the index is damaged.
        """
        _of_array().save(self, arguments.path(folder))

    def __repr__(self) -> str:
        """Returns rows, width, kind and the recall that was measured where it is searched, and if on few queries."""
        kinds, recall = sorted({shard.searcher for shard in self.shards}), self.facts.get("recall", {})
        measured = ""
        if recall:
            reached, target = self.point.recall[str(recall["k"])], self._asked_recall or recall["target"]
            few = f"; measured on few queries: {recall['queries']}" if recall["queries"] < _FEW_QUERIES else ""
            measured = f", recall@{recall['k']} {reached:.4f} (target {target:g}{few})"
        return f"Index({self.rows:,} x {self.key_encoder.dim}, {'+'.join(kinds)}{measured})"

    def __reduce__(self) -> Any:
        """Refuses to be pickled or copied: its files are mapped and locked by this process."""
        raise UserError("an open index cannot be pickled; save it, and open its folder in each process")

    @functools.cached_property
    def router(self) -> Router:
        """The leaves of space of the shards that are not deltas."""
        if not self.point.leaves:
            return routing.without_regions(self.regions, self.key_encoder.dim)
        table = schemas.read(self._checked(ROUTER_FILE), Router.COLUMNS)
        return Router.from_table(table, self.regions)

    @functools.cached_property
    def _tombstones(self) -> dict[str, np.ndarray]:
        """Removed rows of each shard, by its path."""
        if not any(storage.name(path) == TOMBSTONES_FILE for path in self._files):
            return {}
        table = schemas.read(self._checked(TOMBSTONES_FILE), TOMBSTONES.names)
        rows = table["row"].to_numpy()
        paths = np.array(table["shard"].to_pylist(), object)
        return {path: rows[paths == path] for path in set(paths.tolist())}

    @functools.cached_property
    def _tuning(self) -> np.ndarray | None:
        """A few of the queries that the index was tuned on, float32 `[q, d]`."""
        if not any(storage.name(path) == _QUERIES_FILE for path in self._files):
            return None
        table = schemas.read(self._checked(_QUERIES_FILE), ["key"])
        return schemas.to_matrix(table["key"].slice(0, _TRIAL_QUERIES))

    def _trial(self, number: int) -> Asked | None:
        """Returns those of them that visit a shard."""
        queries = self._tuning
        if queries is None or not self.shards[number].is_region:
            return None if queries is None else Asked(queries)
        visits = self.visits(queries)
        inside = np.flatnonzero(visits.leaves[:, number])
        return Asked(queries[inside], *visits.part(inside, number)) if len(inside) else None

    def _checked(self, name: str) -> str:
        path = next(path for path in self._files if storage.name(path) == name)
        uri = storage.join(self.folder, path)
        shard_store.check_file(uri, self._files[path], self._remedy)
        return uri

    @property
    def _remedy(self) -> str:
        """What to do if a file is damaged, the end of an error's sentence."""
        return index_manifest.remedy(NORMALISED in self.facts)

    @property
    def rows(self) -> int:
        """Rows that can be found."""
        return sum(shard.rows for shard in self.shards) - sum(len(rows) for rows in self._tombstones.values())

    def removed(self, number: int) -> np.ndarray:
        """Returns the local rows, int64, of a shard that must not be found."""
        return self._tombstones.get(self.shards[number].path, np.empty(0, np.int64))

    def region(self, number: int) -> int:
        """Returns the number of a shard among those that are not deltas."""
        return sum(not shard.is_delta for shard in self.shards[:number])

    def visits(self, queries: np.ndarray, growth: float = 1.0) -> Visits:
        """Returns what queries search of each shard; of one that is no region, one leaf stands for all of it.

        No query visits a shard without rows.

        Args:
            queries: float32 `[Q, d]`.
            growth: how many times as many neighbours are searched for as the index was tuned for.
        """
        shape = len(queries), len(self.shards)
        visits = Visits(np.ones(shape, np.int32), np.ones(shape, np.float32))
        if any(shard.is_region for shard in self.shards):
            regions = self.router.visits(queries, self.point.leaves, growth)
            places = [number for number, shard in enumerate(self.shards) if shard.is_region]
            visits.leaves[:, places], visits.shares[:, places] = regions.leaves, regions.shares
        visits.leaves[:, [not shard.rows for shard in self.shards]] = 0
        return visits

    def growth(self, length: float) -> float:
        """Returns how many times as many neighbours lists of some length have as those that the index was tuned for."""
        return max(1.0, length / min(setting.parameters.k for shard in self.shards for setting in shard.settings))

    @property
    def rows_of_regions(self) -> np.ndarray:
        """Rows of each shard that can be found, int64 `[shards]`; 0 for one that is no region."""
        rows = [shard.is_region * (shard.rows - len(self.removed(n))) for n, shard in enumerate(self.shards)]
        return np.array(rows, np.int64)

    def load(self, number: int) -> Shard:
        """Checks and loads a shard by its number; errors as `shard_store.load`."""
        record = self.shards[number]
        setting = record.settings[records.setting_of(record.settings, record.is_region, self.point)]
        return shard_store.load(self.folder, record, setting.parameters, self.removed(number), self._remedy)

    def lookup(self, number: int) -> Lookup:
        """Returns a shard by its number; it stays loaded."""
        if number not in self.loaded:
            # A shard must not keep the index, whose files are kept as long as something refers to it.
            mine = weakref.ref(self)
            self.loaded[number] = Lookup(self.load(number), lambda: index._trial(number) if (index := mine()) else None)
        return self.loaded[number]

    def search(
        self,
        queries: np.ndarray,
        k: int,
        images: Sequence[bytes] | np.ndarray | None = None,
        *,
        allowed: Allowed | np.ndarray | None = None,
    ) -> Hits:
        """Finds the `k` nearest rows of each query.

        Args:
            queries: float16, float32 or float64 `[Q, d]`, embedded and normalised as the memory's keys are; those of an
                array's index are scaled to unit length if its vectors were.
            k: length of the lists, from 0 to the index's rows or 4,096; shorter ones are padded with -1.
            images: bytes `S32` `[Q]`, content keys (SHA-256) of the queries' images; memory rows with the same image
                are left out.
            allowed: ids int64 `[n]` of the rows that may be found, or an `Allowed` of them, which is faster from the
                second search on.

        Returns:
            The lists, ties ordered by id. One is shorter than `k` only if the index has no more rows that may be found.

        Raises:
            UserError: if an argument is something else, a query has a value that is not finite, or a shard is damaged.
        """
        queries = arguments.queries(queries, self.key_encoder.dim, bool(self.facts.get(NORMALISED)))
        k = arguments.count(k, 0, max(_MOST_PADDED, sum(shard.rows for shard in self.shards)))
        own = arguments.images(images, len(queries))
        hits = Hits(
            np.full((len(queries), k), -1, np.int64),
            np.full((len(queries), k), -np.inf, np.float32),
            np.zeros(len(queries), np.int32),
        )
        if allowed is not None and not isinstance(allowed, Allowed):
            allowed = Allowed(allowed)
        for begin in range(0, len(queries), BLOCK_QUERIES):
            part = slice(begin, begin + BLOCK_QUERIES)
            self._search(queries[part], k, None if own is None else own[part], allowed, hits.part(part))
        return hits

    def _search(self, queries: np.ndarray, k: int, own: np.ndarray | None, allowed: Allowed | None, into: Hits) -> None:
        """Searches a block of queries; arguments as of `search`."""
        if not allowed:
            self._visit_all(queries, k, own, into)
            return
        found = self._allowed_rows(allowed)
        # The list of all rows that has k allowed ones among them is longer than k.
        growth = self.growth(k * self.rows / max(found, 1))
        visits = self.visits(queries, growth)
        # A shard scans more leaves by itself, since it knows which of its rows are allowed.
        fewer = np.ceil(visits.leaves / growth).astype(np.int32)
        self._visit(queries, k, own, allowed, dataclasses.replace(visits, leaves=fewer), into)
        listed = (into.ids >= 0).sum(axis=1)
        short = np.flatnonzero((listed < k) & (listed + into.excluded < found))
        if len(short):
            # What was visited has too few allowed rows.
            again = Hits(into.ids[short], into.scores[short], np.zeros(len(short), np.int32))
            self._visit(queries[short], k, None if own is None else own[short], allowed, None, again)
            into.ids[short], into.scores[short], into.excluded[short] = again.ids, again.scores, again.excluded

    def _visit_all(self, queries: np.ndarray, k: int, own: np.ndarray | None, into: Hits) -> None:
        """Searches a block of queries among all rows: the regions that they visit, then the other shards."""
        visits, regions = self.visits(queries, self.growth(k)), self.rows_of_regions
        self._visit(queries, k, own, None, visits, into, is_region=True if regions.any() else None)
        if not regions.any():
            return

        def find(number: int, places: np.ndarray) -> tuple[np.ndarray, ...]:
            theirs, longest = None if own is None else own[places], min(k, self.shards[number].rows)
            return self.lookup(number).search(queries[places], longest, theirs)

        visited = (visits.leaves > 0) & [shard.is_region for shard in self.shards]
        complete(into, np.arange(len(queries)), visited, regions, find)
        if not all(shard.is_region for shard in self.shards):
            others = Hits(np.empty_like(into.ids), np.empty_like(into.scores), into.excluded)
            self._visit(queries, k, own, None, visits, others, is_region=False)
            into.ids[:], into.scores[:] = merge([(into.ids, into.scores), (others.ids, others.scores)], k)

    def _allowed_rows(self, allowed: Allowed) -> int:
        if allowed.is_every_row:
            return self.rows
        return sum(len(self.lookup(n).among(allowed).rows) for n, shard in enumerate(self.shards) if shard.rows)

    def _visit(
        self,
        queries: np.ndarray,
        k: int,
        own: np.ndarray | None,
        allowed: Allowed | None,
        visits: Visits | None,
        into: Hits,
        is_region: bool | None = None,
    ) -> None:
        """Searches what is visited of each shard; without visits every shard by itself, as if there were no others.

        Only those that are regions, or that are none, if that is said.
        """
        best = BestLists(len(queries), k)
        for number, shard in enumerate(self.shards):
            places = np.arange(len(queries)) if visits is None else np.flatnonzero(visits.leaves[:, number])
            if not len(places) or not shard.rows or is_region not in (None, shard.is_region):
                continue
            leaves, shares = visits.part(places, number) if visits and shard.is_region else (None, None)
            theirs, longest = own[places] if own is not None else None, min(k, shard.rows)
            ids, scores, left_out = self.lookup(number).search(
                queries[places], longest, theirs, leaves=leaves, shares=shares, allowed=allowed
            )
            best.add(ids, scores, places)
            into.excluded[places] += left_out
        into.ids[:], into.scores[:] = best.ids, best.scores
