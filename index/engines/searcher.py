"""The interface of searchers, and the table of their kinds.

Each kind is in a module of its own, imported when it is used, so that `exact` works where ScaNN cannot be imported.
Rows are local to one shard here; `shard_store` maps them to ids.
"""

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Protocol, cast

import numpy as np

from configs.base import Index
from index.engines.planner import Parameters, Plan
from pipelines.errors import UserError, nearest

KINDS = {
    "exact": "index.engines.exact",
    "jax": "index.engines.jax_searcher",
    "scann": "index.engines.scann_searcher",
}
CHUNK_ROWS = 32_768
_SAMPLE_SEED = 0


class Keys(Protocol):
    """The keys of one shard, which never have to be in memory all at once."""

    @property
    def rows(self) -> int:
        """Rows of the shard."""

    @property
    def dim(self) -> int:
        """Width of a key."""

    def sample(self, rows: int) -> np.ndarray:
        """Returns keys float32 `[min(rows, self.rows), d]`, the same in every call; all rows come in order."""

    def chunks(self) -> Iterator[np.ndarray]:
        """Yields all keys in row order, float32 `[m, d]` of at most `CHUNK_ROWS`; can be called again."""


class ArrayKeys:
    """Keys that are an array `[n, d]` in memory or a mapped file."""

    def __init__(self, keys: np.ndarray) -> None:
        """Takes the keys without a copy."""
        self._keys = keys
        self.rows, self.dim = keys.shape

    def sample(self, rows: int) -> np.ndarray:
        """Returns keys as `Keys.sample`, drawn without replacement."""
        if rows >= self.rows:
            return np.ascontiguousarray(self._keys, np.float32)
        drawn = np.random.default_rng(_SAMPLE_SEED).choice(self.rows, rows, replace=False)
        return np.ascontiguousarray(self._keys[np.sort(drawn)], np.float32)

    def chunks(self) -> Iterator[np.ndarray]:
        """Yields keys as `Keys.chunks`."""
        for begin in range(0, self.rows, CHUNK_ROWS):
            yield np.ascontiguousarray(self._keys[begin : begin + CHUNK_ROWS], np.float32)


# The folder that a searcher was loaded from, or the one that it was built in, which is deleted with it.
Files = str | tempfile.TemporaryDirectory[str]


def copy_files(files: Files, folder: str) -> None:
    """Copies the files of a searcher into an existing folder, which can be moved."""
    shutil.copytree(files if isinstance(files, str) else files.name, folder, dirs_exist_ok=True)


class Searcher(Protocol):
    """Finds the keys of one shard with the largest dot products."""

    def search(
        self,
        queries: np.ndarray,
        k: int,
        more: int = 0,
        *,
        leaves: np.ndarray | None = None,
        shares: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest rows, ordered and padded as by `nearest_neighbors.top_k`.

        Args:
            queries: `[Q, d]` float32.
            k: length of the list; it alone decides how many candidates are scored.
            more: entries after those, to replace some that are left out later. The first `k` entries do not depend on
                `more`.
            leaves: int64 `[Q]`, positive, in a shard that was built with given centres: how many leaves of this shard
                each query scans, those whose centres have the largest dot products with it. The parameters are those
                of the whole index then, and of its `leaves_to_search` these are the ones in this shard. A searcher may
                scan some more leaves, and one without leaves scans everything.
            shares: float32 `[Q]`, with `leaves`: the share of its neighbours that each query expects in them. Not all
                candidates of the parameters are scored here, but `Parameters.candidates_of` this share, or some more.
                So a list may have fewer than `k` rows.

        Returns:
            Rows int64 and scores float32, both `[Q, k + more]`.
        """

    def search_rows(self, queries: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest of some rows, exactly: no row that is among the nearest is missed.

        Args:
            queries: `[Q, d]` float32.
            k: length of the list.
            rows: int64 `[m]`, ascending, those to choose from.

        Returns:
            Rows int64 and scores float32, both `[Q, k]`, ordered and padded as by `nearest_neighbors.top_k`. The scores
            are those that `search` gives the rows, but for their last bits.
        """

    def with_parameters(self, parameters: Parameters) -> "Searcher":
        """Returns a searcher over the same keys with other search-time parameters."""

    def with_threads(self, threads: int) -> "Searcher":
        """Returns a searcher over the same keys with 1 thread of its own, or with 0 for one per core."""

    def save(self, folder: str) -> None:
        """Writes the searcher into an existing local folder."""


class SearcherModule(Protocol):
    """The functions of a module named in `KINDS`."""

    def plan(self, rows: int, dim: int, config: Index) -> Plan:
        """Returns the plan of a shard."""

    def build(self, keys: Keys, plan: Plan, *, centres: np.ndarray | None = None) -> Searcher:
        """Builds a searcher.

        Args:
            keys: of the shard.
            plan: of the shard.
            centres: float32 `[plan.leaves, d]`, unit length, in the space of the keys: those leaves of the index that
                the shard owns. Each key belongs to the nearest; by default the shard trains leaves of its own.
        """

    def load(self, folder: str, plan: Plan) -> Searcher:
        """Loads what `save` wrote; the files must have been checked."""


def kind(name: str) -> SearcherModule:
    """Returns the module of a kind of searcher.

    Raises:
        UserError: for an unknown name, or a searcher that cannot run on this machine.
    """
    if name not in KINDS:
        raise UserError(f"--config.index.searcher={name}: unknown; {nearest(name, list(KINDS))}")
    return cast(SearcherModule, importlib.import_module(KINDS[name]))
