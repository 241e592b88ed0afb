"""Finds the memory rows that are copies of queries, which would give away the labels of the queries.

A copy has the bytes of a query or, where the keys have a cosine that makes it a candidate, its pixels (`pixels`).
Two drawings on an empty ground, which may share no more than an outline, need a high cosine as well. Where there are no
pixels, as for vectors that others computed, or only blank ones, a high cosine decides alone. Streaming the memory is up
to `selection_job`.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from configs.base import Filters
from pipelines import schemas
from pipelines.filtering import pixels, similarity
from pipelines.filtering.similarity import NONE
from pipelines.manifest import Embeddings
from pipelines.schemas import THUMBNAIL, THUMBNAIL_SIDE, content_keys, unit_keys

# Queries that a row's pixels are compared with, those of the highest cosines.
_COMPARED = 4


@dataclasses.dataclass(frozen=True)
class Rule:
    """What makes a row a copy of a query.

    Attributes:
        cosine: smallest cosine of a copy where there are no pixels to compare, or both pictures have an empty ground; 0
            if nothing is compared.
        candidates: smallest cosine at which pixels are compared.
        pixels: smallest `pixels.similarity` of a copy; 0 if cosines decide alone.
    """

    cosine: float = 0.0
    candidates: float = 0.0
    pixels: float = 0.0

    @classmethod
    def of(cls, filters: Filters) -> "Rule":
        """Returns the rule of a config; fields that decide nothing are 0."""
        if not filters.leakage:
            return cls()
        candidates = filters.leakage_candidates if filters.leakage_pixels else 0.0
        return cls(filters.leakage, candidates, filters.leakage_pixels)

    @property
    def least(self) -> float:
        """The smallest cosine of a pair without pixels that is looked at."""
        return min(self.cosine, self.candidates) if self.pixels else self.cosine


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of the memory, as they are compared.

    Attributes:
        images: content keys `S32` `[n]`.
        keys: float32 `[n, d]`, unit length.
        thumbnails: uint8 `[n, side, side]`.
        shown: whether each has a thumbnail, and one that is not blank, bool `[n]`.
    """

    images: np.ndarray
    keys: np.ndarray
    thumbnails: np.ndarray
    shown: np.ndarray

    def where(self, mask: np.ndarray) -> "Rows":
        """Returns some of the rows."""
        return Rows(self.images[mask], self.keys[mask], self.thumbnails[mask], self.shown[mask])


@dataclasses.dataclass(frozen=True)
class Matches:
    """The nearest query of each row: the one that it is a copy of or, where there is none, the nearest candidate.

    Attributes:
        query: places of the queries int64 `[n]`, `similarity.NONE` for none.
        cosine: float32 `[n]`, 1 for equal bytes.
        pixels: `pixels.similarity` float32 `[n]`, 1 for equal bytes, NaN where pixels were not compared.
        is_copy: bool `[n]`.
        pairs: number of pairs whose pixels were compared.
        rows: number of rows that these pairs are of.
    """

    query: np.ndarray
    cosine: np.ndarray
    pixels: np.ndarray
    is_copy: np.ndarray
    pairs: int = 0
    rows: int = 0

    @classmethod
    def none(cls, rows: int) -> "Matches":
        """Returns the matches of rows that match nothing."""
        cosine, nan = np.full(rows, -np.inf, np.float32), np.full(rows, np.nan, np.float32)
        return cls(np.full(rows, NONE, np.int64), cosine, nan, np.zeros(rows, bool))

    def take(self, rows: np.ndarray, other: "Matches", queries: np.ndarray) -> None:
        """Takes what is better in other matches: copies first, then the higher cosine, then the earlier query.

        Args:
            rows: int64 `[m]`, the rows that the other matches are of.
            other: of some rows with some queries, `[m]`.
            queries: int64, places of those queries.
        """
        found = np.flatnonzero(other.query != NONE)
        rows, query = rows[found], queries[other.query[found]]
        is_copy, cosine, ours = other.is_copy[found], other.cosine[found], self.cosine[rows]
        is_first = (cosine > ours) | ((cosine == ours) & (query < self.query[rows]))
        wins = np.where(is_copy == self.is_copy[rows], is_first, is_copy)
        rows, found = rows[wins], found[wins]
        self.query[rows], self.cosine[rows] = query[wins], other.cosine[found]
        self.pixels[rows], self.is_copy[rows] = other.pixels[found], other.is_copy[found]


@dataclasses.dataclass(frozen=True)
class Queries:
    """The queries of the splits that must not leak, ordered by split, then id.

    Attributes:
        splits: int8 `[Q]`, place of the split among the given splits.
        ids: int64 `[Q]`.
        keys: float32 `[Q, d]`, unit length.
        thumbnails: uint8 `[Q, side, side]`.
        shown: whether each has a thumbnail, and one that is not blank, bool `[Q]`.
        images: the different content keys, `S32` `[u]`, sorted.
        first: int64 `[u]`, the first query with each content key.
    """

    splits: np.ndarray
    ids: np.ndarray
    keys: np.ndarray
    thumbnails: np.ndarray
    shown: np.ndarray
    images: np.ndarray
    first: np.ndarray

    @classmethod
    def load(cls, folders: Mapping[str, str]) -> "Queries":
        """Reads the queries of splits, given by name; the order of the splits decides between equal matches."""
        splits, ids, keys, images, thumbnails, shown = [], [], [], [], [], []
        for place, folder in enumerate(folders.values()):
            embeddings = Embeddings(folder)
            info = embeddings.encoder("key")
            for shard in embeddings.shard_rows:
                has_pixels = embeddings.has_column(shard, THUMBNAIL)
                table = embeddings.read(shard, ["id", "content_key", "key", *([THUMBNAIL] if has_pixels else [])])
                ids.append(table["id"].to_numpy())
                splits.append(np.full(table.num_rows, place, np.int8))
                keys.append(similarity.unit(unit_keys(table["key"], info, f"{folder}, shard {shard}")))
                images.append(content_keys(table["content_key"]))
                grey, has_one = read_thumbnails(table)
                thumbnails.append(grey)
                shown.append(has_one)
        different, first = np.unique(np.concatenate(images), return_index=True)
        return cls(
            np.concatenate(splits),
            np.concatenate(ids),
            np.concatenate(keys),
            np.concatenate(thumbnails),
            np.concatenate(shown),
            different,
            first,
        )

    @functools.cached_property
    def _parts(self) -> dict[bool, tuple[np.ndarray, np.ndarray]]:
        """The places of queries that are shown and that are not, and their keys."""
        parts = {}
        for shown in (True, False):
            places = np.flatnonzero(self.shown == shown)
            parts[shown] = places, self.keys if len(places) == len(self.keys) else self.keys[places]
        return parts

    def matches(self, rows: Rows, rule: Rule) -> Matches:
        """Finds the query that each row of the memory is a copy of, or else the nearest candidate.

        Equal bytes come before all else, then the highest cosine of a copy, then the first query.
        """
        found, pairs, compared = Matches.none(len(rows.images)), 0, 0
        everywhere = np.arange(len(self.keys))
        if not rule.pixels:
            found.take(np.arange(len(rows.images)), _by_cosine(rows.keys, self.keys, rule), everywhere)
        else:
            seen, unseen = np.flatnonzero(rows.shown), np.flatnonzero(~rows.shown)
            (shown, _), (hidden, hidden_keys) = self._parts[True], self._parts[False]
            if len(unseen):
                found.take(unseen, _by_cosine(rows.keys[unseen], self.keys, rule), everywhere)
            if len(seen) and len(hidden):
                found.take(seen, _by_cosine(rows.keys[seen], hidden_keys, rule), hidden)
            if len(seen) and len(shown):
                by_pixels = self._by_pixels(rows.keys[seen], rows.thumbnails[seen], rule)
                found.take(seen, by_pixels, shown)
                pairs, compared = by_pixels.pairs, by_pixels.rows
        place = np.minimum(np.searchsorted(self.images, rows.images), len(self.images) - 1)
        equal = np.flatnonzero(self.images[place] == rows.images)
        found.query[equal], found.cosine[equal], found.is_copy[equal] = self.first[place[equal]], 1, True
        found.pixels[equal] = np.where(rows.shown[equal], np.float32(1), np.nan) if rule.pixels else np.nan
        return dataclasses.replace(found, pairs=pairs, rows=compared)

    def _by_pixels(self, keys: np.ndarray, thumbnails: np.ndarray, rule: Rule) -> Matches:
        """Compares rows that are shown with the queries that are; places are among the latter."""
        shown, query_keys = self._parts[True]
        found, pairs = Matches.none(len(keys)), 0
        queries, cosines = similarity.near(keys, query_keys, _COMPARED, rule.candidates)
        for query, cosine in zip(queries.T, cosines.T, strict=True):
            rows = np.flatnonzero((query != NONE) & ~found.is_copy)
            query, cosine = query[rows], cosine[rows]
            ours, theirs = thumbnails[rows], self.thumbnails[shown[query]]
            alike = pixels.similarity(ours, theirs)
            pairs += len(rows)
            is_outline = pixels.grounded(ours) & pixels.grounded(theirs)
            is_copy = (alike >= np.float32(rule.pixels)) & (~is_outline | (cosine >= np.float32(rule.cosine)))
            # Of candidates that are not copies, the one that is nearest to being one is kept.
            better = is_copy | ~(alike <= found.pixels[rows])
            rows, is_copy = rows[better], is_copy[better]
            found.query[rows], found.cosine[rows] = query[better], cosine[better]
            found.pixels[rows], found.is_copy[rows] = alike[better], is_copy
        return dataclasses.replace(found, pairs=pairs, rows=int((queries[:, 0] != NONE).sum()))


def _by_cosine(keys: np.ndarray, queries: np.ndarray, rule: Rule) -> Matches:
    query, cosine = similarity.best_matches(keys, queries, rule.least)
    return Matches(query, cosine, np.full(len(keys), np.nan, np.float32), cosine >= np.float32(rule.cosine))


def read_thumbnails(table: pa.Table | pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Returns thumbnails uint8 `[n, side, side]`, and whether each row has one that is not blank, bool `[n]`."""
    if THUMBNAIL not in table.schema.names:
        none = np.zeros((table.num_rows, THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
        return none, np.zeros(table.num_rows, bool)
    grey, has_one = schemas.thumbnails(table[THUMBNAIL])
    return grey, has_one & ~pixels.blank(grey)
