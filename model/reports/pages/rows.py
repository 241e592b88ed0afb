"""What became of the rows of each source: used, rejected, filtered or dropped, with examples."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from configs.base import Places
from configs.schema.data import SPLITS
from model.reports.grid import Grid
from pipelines import manifest, schemas, storage
from pipelines.manifest import Embeddings, Marker

_AGAIN = "remove it and run web-memory embed again"
_EXAMPLES = 3
# Files of rejected or filtered rows that are read for examples.
_MOST_FILES = 50
SELECTION = "selection.json"


@dataclasses.dataclass(frozen=True)
class Account:
    """The rows of one folder of embeddings.

    Attributes:
        name: `memory` or a split.
        embeddings: the folder.
        markers: of its shards.
    """

    name: str
    embeddings: Embeddings
    markers: list[Marker]

    @property
    def rows_in(self) -> int:
        """Rows that the source has."""
        return sum(marker.rows_in for marker in self.markers)

    @property
    def rejected(self) -> int:
        """Rows that could not be read."""
        return sum(marker.rows_rejected for marker in self.markers)

    @property
    def filtered(self) -> Counter[str]:
        """Rows that are not wanted, by filter."""
        counts: Counter[str] = Counter()
        for marker in self.markers:
            counts.update(marker.filtered)
        return counts

    @property
    def dropped(self) -> int:
        """Rows that have vectors and are not used."""
        return sum(marker.rows_out for marker in self.markers) - self.embeddings.rows


def accounts(places: Places) -> list[Account]:
    """Returns the accounts of the memory and of each split."""
    folders = {"memory": places.memory, **{split: places.queries(split) for split in SPLITS}}
    return [account(name, folder) for name, folder in folders.items()]


def account(name: str, folder: str) -> Account:
    """Returns the account of one folder of embeddings; a `UserError` if it is not finished."""
    _, whole = manifest.read_complete(folder, "pipelines.embed")
    names = {shard["name"] for shard in whole["shards"]}
    markers = manifest.read_markers(folder, whole["config_hash"]).values()
    return Account(name, Embeddings(folder), [marker for marker in markers if marker.name in names])


def grid(found: list[Account]) -> Grid:
    """Returns the table of all accounts."""
    rows = []
    for each in found:
        filtered = sum(each.filtered.values())
        counts = (each.rows_in, each.rejected, filtered, each.dropped, each.embeddings.rows, len(each.markers))
        rows.append((each.name, *(f"{count:,}" for count in counts)))
    return Grid(
        "Rows in, and what became of them",
        ("source", "rows in", "rejected", "filtered", "dropped", "used", "shards"),
        rows,
        (
            "rejected: could not be read, decoded or embedded",
            "filtered: read, but not wanted by their own fields, such as their size or caption",
            "dropped: embedded, but not used after a comparison with other rows, such as copies of test images",
        ),
    )


@dataclasses.dataclass(frozen=True)
class Kind:
    """Rows that are not used for one reason: their number where it is known, and examples."""

    source: str
    reason: str
    count: int
    examples: list[dict[str, Any]]


def rejects(found: list[Account]) -> list[Kind]:
    """Returns the kinds of rejected rows, the most frequent of each source first."""
    return [kind for each in found for kind in _kinds(each, manifest.REJECTS, "error_type", schemas.REJECTS.names)]


def filtered(found: list[Account]) -> list[Kind]:
    """Returns the kinds of filtered rows, the most frequent of each source first."""
    return [kind for each in found for kind in _kinds(each, manifest.FILTERED, "filter", schemas.FILTERED.names)]


def _kinds(account: Account, folder: str, reason: str, columns: list[str]) -> Iterator[Kind]:
    is_rejects = folder == manifest.REJECTS
    counts: Counter[str] = Counter()
    examples: dict[str, list[dict[str, Any]]] = {}
    chosen = [marker for marker in account.markers if (marker.rows_rejected if is_rejects else marker.rows_filtered)]
    for marker in sorted(chosen, key=lambda marker: marker.number)[:_MOST_FILES]:
        path = storage.join(account.embeddings.folder, folder, f"{marker.name}.parquet")
        if not storage.exists(path):
            # A compaction counts rows that it deleted, and keeps no list of them.
            continue
        table = schemas.read(path, columns, {"config_hash": marker.config_hash})
        counts.update(table[reason].to_pylist())
        for row in table.to_pylist():
            mine = examples.setdefault(row[reason], [])
            if len(mine) < _EXAMPLES:
                mine.append(row)
    for name, count in counts.most_common():
        yield Kind(account.name, name, count, examples[name])


def read_selection(memory: str) -> Mapping[str, Any] | None:
    """Returns what `selection.json` of a memory says (docs/contracts.md); None if no row was compared with others."""
    path = storage.join(memory, manifest.DROPPED, SELECTION)
    if not storage.exists(path):
        return None
    shape = {"identity": {"leakage": dict, "splits": list}, "totals": {str: int}, "examples": [dict], "compared": dict}
    return schemas.read_json(path, shape, _AGAIN)
