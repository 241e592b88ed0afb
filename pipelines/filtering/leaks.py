"""What a finished selection dropped as copies of queries, and what it nearly dropped: for people, and for messages."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import manifest, schemas, storage
from pipelines.filtering.selection import Selection
from pipelines.manifest import Embeddings

_BINS = 1 << 14
# Shares of the cosines that a message tells.
_SHARES = (0.0, 0.05, 0.5, 0.95, 1.0)
_COLUMNS = ["id", "source_shard", "member", "url", "caption"]
# Share of the rows that are dropped as copies from which that is likely to be a mistake.
_TOO_MANY = 0.5


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the memory or of a split, as far as it is shown.

    Attributes:
        folder: `memory` or the split.
        id: of the row.
        container: its `source_shard`.
        member: its name there.
        url: empty for none.
        caption: empty for none.
    """

    folder: str
    id: int
    container: str
    member: str
    url: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Pair:
    """A row of the memory and the query that it is, or nearly is, a copy of.

    Attributes:
        row: of the memory.
        query: of a split.
        cosine: of their keys.
        pixels: similarity of their pixels; None where they were not compared.
    """

    row: Row
    query: Row
    cosine: float
    pixels: float | None


@dataclasses.dataclass(frozen=True)
class _Match:
    id: int
    twin_folder: str
    twin_id: int
    cosine: float
    pixels: float | None

    @property
    def doubt(self) -> tuple[float, float, int]:
        """Orders matches: those that pixels or, without pixels, cosines barely make copies come first."""
        return (self.cosine if self.pixels is None else self.pixels, self.cosine, self.id)


def dropped(memory: Embeddings, splits: dict[str, Embeddings], chosen: Selection, most: int) -> list[Pair]:
    """Returns the rows that were dropped as copies of queries, the most doubtful first.

    Args:
        memory: whose selection it is.
        splits: that the rows were compared with.
        chosen: the selection.
        most: how many.
    """
    matches: list[_Match] = []
    for table in _leaked(memory.folder, chosen):
        found = table.select(["id", "twin_folder", "twin_id", "similarity", "pixels"]).to_pylist()
        matches += [_Match(*row.values()) for row in found]
        matches = sorted(matches, key=lambda match: match.doubt)[:most]
    return _pairs(matches, memory, splits)


def kept(memory: Embeddings, splits: dict[str, Embeddings], chosen: Selection, most: int) -> list[Pair]:
    """Returns the rows that were nearest to being dropped, nearest first; arguments as of `dropped`."""
    matches = [_Match(e.id, e.twin_folder, e.twin_id, e.similarity, e.pixels) for e in chosen.kept[:most]]
    return _pairs(matches, memory, splits)


def _leaked(memory: str, chosen: Selection) -> Iterator[pa.Table]:
    """Yields the rows of `_dropped/` that are copies of queries, shard by shard."""
    for shard in chosen.shards:
        if shard.dropped.get("leakage"):
            path = storage.join(memory, manifest.DROPPED, f"{shard.name}.parquet")
            table = schemas.read(path, ["id", "reason", "twin_folder", "twin_id", "similarity", "pixels"])
            yield table.filter(pc.equal(table["reason"], "leakage"))


def _pairs(matches: list[_Match], memory: Embeddings, splits: dict[str, Embeddings]) -> list[Pair]:
    rows = _rows("memory", memory, [match.id for match in matches])
    for name, split in splits.items():
        rows |= _rows(name, split, [match.twin_id for match in matches if match.twin_folder == name])
    return [
        Pair(rows["memory", match.id], rows[match.twin_folder, match.twin_id], match.cosine, match.pixels)
        for match in matches
        if ("memory", match.id) in rows and (match.twin_folder, match.twin_id) in rows
    ]


def _rows(folder: str, embeddings: Embeddings, ids: list[int]) -> dict[tuple[str, int], Row]:
    """Returns rows by folder and id, dropped ones, too; reads each shard once."""
    found: dict[tuple[str, int], Row] = {}
    wanted = np.array(sorted(set(ids)), np.int64)
    for shard in np.unique(schemas.split_ids(wanted)[0]).tolist():
        if shard in embeddings.shard_rows:
            table = embeddings.read(shard, _COLUMNS, ("leakage", "exact_duplicates", "near_duplicates"))
            for row in table.take(np.flatnonzero(np.isin(table["id"].to_numpy(), wanted))).to_pylist():
                found[folder, row["id"]] = _row(folder, row)
    return found


def _row(folder: str, row: dict[str, Any]) -> Row:
    return Row(folder, row["id"], row["source_shard"], row["member"], row["url"] or "", row["caption"] or "")


def advice(memory: str, chosen: Selection, rows: int) -> str:
    """Returns what to say if so many rows are copies of queries that the rule is likely to be wrong; empty if not.

    Args:
        memory: its folder.
        chosen: its selection.
        rows: that the memory has, with the dropped ones.
    """
    total = chosen.totals.get("leakage", 0)
    if not total or total < _TOO_MANY * rows:
        return ""
    counts, by_pixels = np.zeros(_BINS, np.int64), 0
    for table in _leaked(memory, chosen):
        unseen = table.filter(pc.is_null(table["pixels"]))
        by_pixels += table.num_rows - unseen.num_rows
        counts += np.histogram(unseen["similarity"].to_numpy(), _BINS, (-1.0, 1.0))[0]
    parts = []
    if by_pixels:
        parts.append(f"{by_pixels:,} have the bytes or the pixels of an image of {_split_names(chosen)}")
    if counts.sum():
        low, few, half, most, high = _quantiles(counts)
        parts.append(
            f"{counts.sum():,} by the cosine of their keys alone, which are {low:.3f} to {high:.3f} (5 %: {few:.3f}, "
            f"half: {half:.3f}, 95 %: {most:.3f}); the threshold belongs to the encoder: set --config.filters.leakage "
            "above the cosines of different images, or to 0 to drop no copies"
        )
    else:
        parts.append("the memory's source seems to be that of the split; check --config.memory.path")
    return f"{total:,} of {rows:,} rows are dropped as copies of queries: {'; '.join(parts)}"


def _split_names(chosen: Selection) -> str:
    return " and ".join(name for name, _ in chosen.identity["splits"])


def _quantiles(counts: np.ndarray) -> list[float]:
    """Returns the cosines below which `_SHARES` of all are, from their histogram."""
    reached = np.cumsum(counts)
    places = [int(np.searchsorted(reached, max(1, share * reached[-1]))) for share in _SHARES]
    return [-1 + 2 * (place + 0.5) / _BINS for place in places]


def summary(chosen: Selection) -> str:
    """Returns how rows were compared with the queries, for the summary of a command; empty if they were not."""
    if "leakage" not in chosen.totals:
        return ""
    rule, compared = chosen.identity["leakage"], chosen.compared
    parts = []
    if compared.rows:
        parts.append(
            f"the pixels of {compared.pairs:,} pairs were compared, of {compared.rows:,} rows with a cosine of "
            f"{rule['candidates']:g} or more"
        )
    if compared.by_cosine:
        parts.append(
            f"{compared.by_cosine:,} rows {'have no pixels to compare and ' if rule['pixels'] else ''}were compared by "
            f"cosine alone, {rule['cosine']:g} or more"
        )
    return "; ".join(parts) or f"no row has a cosine of {rule['candidates']:g} or more to a query"
