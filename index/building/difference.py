"""How the rows of a memory differ from those of a published index.

The manifest tells which memory shards have changed. Of a shard with the same bytes, only rows that are dropped, or no
longer dropped, differ; of a shard with other bytes, every row does.
"""

import dataclasses

import numpy as np

from index.store import shard_store
from index.store.reader import Index
from pipelines import schemas
from pipelines.manifest import Embeddings


@dataclasses.dataclass(frozen=True)
class Difference:
    """How the rows of a memory differ from those that can be found.

    Attributes:
        gone: rows that each index shard loses, int64, ascending, by the shard's number.
        new: ids of the rows that each memory shard adds, int64, ascending, by the shard's number.
    """

    gone: dict[int, np.ndarray]
    new: dict[int, np.ndarray]

    @property
    def removed(self) -> int:
        """Number of rows that are gone."""
        return sum(map(len, self.gone.values()))

    @property
    def added(self) -> int:
        """Number of rows that are new."""
        return sum(map(len, self.new.values()))


def compare(index: Index, memory: Embeddings) -> Difference:
    """Finds the rows that an index lacks or has in excess; reads only the memory shards that have changed.

    Args:
        index: the published one.
        memory: as it is now.
    """
    then, now = index.facts["memory"]["shards"], memory.shard_facts
    changed = {name for name in {*then, *now} if then.get(name) != now.get(name)}
    rewritten = {name for name in changed if not _has_same_bytes(then.get(name), now.get(name))}
    wanted = {now[name]["number"]: _ids(memory, now[name]["number"]) for name in changed & now.keys()}
    same = _joined([wanted[now[name]["number"]] for name in changed - rewritten])
    touched = np.unique([then[name]["number"] for name in changed & then.keys()]).astype(np.int64)
    gone, known = _compare_shards(index, touched, same)
    fresh = {number: np.sort(ids[~np.isin(ids, known)]) for number, ids in sorted(wanted.items())}
    return Difference(gone, {number: ids for number, ids in fresh.items() if len(ids)})


def _has_same_bytes(then: dict | None, now: dict | None) -> bool:
    return then is not None and now is not None and then["sha256"] == now["sha256"]


def _compare_shards(index: Index, touched: np.ndarray, same: np.ndarray) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Finds the rows of all index shards that are no longer in the memory.

    Args:
        index: the published one.
        touched: numbers of the memory shards that may have lost rows, int64.
        same: ids of their rows that have not changed, int64.

    Returns:
        The lost rows of each index shard, and the ids of the rows of touched memory shards that stay.
    """
    gone: dict[int, np.ndarray] = {}
    stay = []
    # If no memory shard can have lost rows, as when the memory only grew, nothing is read.
    for number in range(len(index.shards)) if len(touched) else ():
        ids, _ = shard_store.read_names(index.folder, index.shards[number])
        live = np.ones(len(ids), bool)
        live[index.removed(number)] = False
        live &= np.isin(schemas.split_ids(ids)[0], touched)
        stays = live & np.isin(ids, same)
        stay.append(ids[stays])
        if len(rows := np.flatnonzero(live & ~stays)):
            gone[number] = rows
    return gone, _joined(stay)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int64), *parts])


def _ids(memory: Embeddings, shard: int) -> np.ndarray:
    ids = memory.read(shard, ["id"])["id"].to_numpy()
    memory.check(shard)
    return ids
