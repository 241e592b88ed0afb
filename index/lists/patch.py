"""Which neighbour lists can be kept when an index is updated: they only need the results of its new shards.

The rows that a search scores depend on the query, k and the shard, never on what has been removed (`searcher`). So the
list of an unchanged shard is the same as before, except for rows removed since; if the merged list names none of these,
no row behind them has moved up into it either. If anything else has changed (the leaves of space, the point of the
curve to search at), all lists are looked up again.
"""

from typing import Any

import numpy as np

from index.store import shard_store
from index.store.keys import content_keys
from index.store.reader import ROUTER_FILE, TOMBSTONES, TOMBSTONES_FILE, Index
from pipelines import schemas, storage


def is_successor(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Tells whether an index is an older one with shards added and rows removed, searched in the same way.

    Args:
        new: manifest of the index.
        old: manifest of the older index.
    """
    shards = len(old["shards"])
    return bool(
        new["base"] == old["base"]
        and new["version"] > old["version"]
        and new["regions"] == old["regions"]
        and all(new["search"][name] == old["search"][name] for name in ("level", "leaves", "candidates"))
        and new["shards"][:shards] == old["shards"]
        and all(shard["is_delta"] for shard in new["shards"][shards:])
        and _file(new, ROUTER_FILE) == _file(old, ROUTER_FILE)
    )


def _file(facts: dict[str, Any], name: str) -> tuple[str, dict[str, Any]] | None:
    """Returns path and digest of a file of the index; None if it has no such file."""
    return next(((path, known) for path, known in facts["files"].items() if storage.name(path) == name), None)


class Patch:
    """The rows that were removed after some lists were looked up."""

    def __init__(self, index: Index, old: dict[str, Any]) -> None:
        """Reads the removed rows.

        Args:
            index: a successor of the index that the lists were looked up in.
            old: manifest of that older index.

        Raises:
            UserError: if the list of removed rows is damaged.
        """
        self.old_shards = len(old["shards"])
        numbers = {shard.path: number for number, shard in enumerate(index.shards)}
        now = _tombstones(index.folder, index.facts, numbers)
        then = _tombstones(index.folder, old, numbers)
        # If the old tombstones have been purged, all count as new, and a few more lists are looked up again.
        since = ~np.isin(now[0], then[0])
        self._ids, self._images = np.unique(now[1][since]), np.unique(now[2][since])

    def keeps(self, named: np.ndarray, images: np.ndarray | None) -> np.ndarray:
        """Returns which lists can be kept, apart from the results of new shards, bool `[Q]`.

        Args:
            named: int64 `[Q, k]`, ids in the lists.
            images: bytes `S32` `[Q]`, content keys of the queries if their own images are left out: removed rows no
                longer count as left out.
        """
        changed = np.isin(named, self._ids).any(axis=1)
        if images is not None:
            changed |= np.isin(images, self._images)
        return np.asarray(~changed)


def _tombstones(
    folder: str, facts: dict[str, Any], numbers: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a number for each removed row, its id, and its content key; empty if there is no such file."""
    known = _file(facts, TOMBSTONES_FILE)
    uri = storage.join(folder, known[0]) if known else ""
    if not known or not storage.exists(uri):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, "S32")
    shard_store.check_file(uri, known[1], "run web-memory neighbors again, or web-memory build if that does not help")
    table = schemas.read(uri, TOMBSTONES.names)
    shards = np.array([numbers[path] for path in table["shard"].to_pylist()], np.int64)
    rows = (shards << schemas.ROW_BITS) | table["row"].to_numpy()
    return rows, table["id"].to_numpy(), content_keys(table["content_key"])
