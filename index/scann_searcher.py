"""The only module that knows ScaNN: builds, saves, loads and searches one shard with it.

Keys and queries must be normalised by the caller where a cosine is wanted: ScaNN knows the dot product. What it
cannot be trusted with is done elsewhere: ordering and padding in `searcher`, checksums before loading in
`shard_store` (ScaNN aborts the process on a missing file).

Scores are float32 dot products as ScaNN's reordering sums them. They differ from the exactly rounded ones of
`exact_searcher` in the last bit or two (up to 2.4e-7 for unit vectors), so they can order near-ties otherwise.
"""

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from index.planner import Parameters, Plan, full_search, plan_shard
from index.searcher import top_k
from pipelines.errors import UserError

_CPU_INFO = "/proc/cpuinfo"
_INSTEAD = "use --config.index.searcher=exact, which needs neither"
_ANISOTROPIC_THRESHOLD = 0.2
_NUM_NEIGHBORS = 32
# Standard error belongs to the whole process: one build at a time may divert it. Each uses all cores anyway.
_STDERR_LOCK = threading.Lock()


def _require_avx() -> None:
    """Refuses an x86 processor without AVX, on which the import itself would kill the process."""
    try:
        with open(_CPU_INFO) as file:
            flags = re.search(r"^flags\s*:(.*)$", file.read(), re.MULTILINE)
    except OSError:
        return
    if flags and "avx" not in flags.group(1).split():
        raise UserError(f"ScaNN needs a processor with AVX, which this one lacks; {_INSTEAD}")


def _scann() -> Any:
    """Imports ScaNN, whose own import of TensorFlow would otherwise fill the screen."""
    _require_avx()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except Exception as error:  # With another TensorFlow it is an error of TensorFlow's own that ends the import.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"ScaNN cannot be imported ({reason}); install scann==1.4.2, or {_INSTEAD}") from error
    return scann_ops_pybind


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps ScaNN's notes on its training, which no log level stops, off the screen.

    It holds a lock: of two that overlapped, the later would restore the standard error that the earlier had diverted.
    """
    with _STDERR_LOCK:
        kept = os.dup(2)
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class ScannSearcher:
    """A built or loaded ScaNN searcher with its search-time parameters."""

    def __init__(self, scann: Any, plan: Plan, parameters: Parameters | None = None) -> None:
        """Wraps ScaNN's own searcher; without parameters everything is searched."""
        self._scann = scann
        self._plan = plan
        self._rows = int(scann.size())
        self._parameters = parameters or full_search(plan, self._rows, self._rows)

    def with_parameters(self, parameters: Parameters) -> "ScannSearcher":
        """Returns a searcher over the same memory with other parameters."""
        return ScannSearcher(self._scann, self._plan, parameters)

    def save(self, folder: str) -> None:
        """Writes the searcher; the folder can be moved."""
        # A relative folder would be doubled in the paths that ScaNN notes, absolute ones would pin it to its place.
        self._scann.serialize(os.path.abspath(folder), relative_path=True)

    def search(self, queries: np.ndarray, k: int, more: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and scores as `Searcher.search`; equal calls give equal results, on any number of threads."""
        if not len(queries) or not k:
            return np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        wanted = min(k + more, self._rows)
        longer = max(1.0, wanted / self._parameters.k)
        rows, scores = self._scann.search_batched_parallel(
            np.ascontiguousarray(queries, np.float32),
            final_num_neighbors=wanted,
            pre_reorder_num_neighbors=min(self._rows, round(self._parameters.pre_reorder_num_neighbors * longer)),
            leaves_to_search=self._parameters.leaves_to_search or None,
        )
        # ScaNN pads a short list with row 0 and score NaN, which top_k takes for padding.
        return top_k(rows.astype(np.int64), scores, k + more)


def plan(rows: int, dim: int, config) -> Plan:
    """Returns the plan of a shard; below `planner.MIN_TREE_ROWS` ScaNN scans all keys."""
    return plan_shard(rows, dim, config.leaves)


def build(keys: np.ndarray, plan: Plan) -> ScannSearcher:
    """Builds a searcher over keys `[n, d]` float32; the same keys give the same bytes.

    Builds of partitioned shards in one process wait for each other (see `_quiet`).

    Raises:
        UserError: if ScaNN cannot run on this machine.
    """
    keys = np.concatenate(list(keys.chunks()))
    builder = _scann().builder(keys, min(_NUM_NEIGHBORS, len(keys)), "dot_product")
    if not plan.leaves:
        return ScannSearcher(builder.score_brute_force().build(), plan)
    builder = builder.tree(
        num_leaves=plan.leaves,
        num_leaves_to_search=plan.leaves,
        training_sample_size=plan.partition_rows,
        # The default of 50 leaves partitions empty where a leaf has few training rows, and recall collapses.
        min_partition_size=1,
        # A random start differs from build to build; k-means++ does not, and costs less than a second pass.
        random_init=False,
    )
    builder = builder.score_ah(
        plan.dims_per_block,
        anisotropic_quantization_threshold=_ANISOTROPIC_THRESHOLD,
        training_sample_size=plan.quantizer_rows,
    )
    with _quiet():
        return ScannSearcher(builder.reorder(min(_NUM_NEIGHBORS, len(keys))).build(), plan)


def load(folder: str, plan: Plan) -> ScannSearcher:
    """Loads what `ScannSearcher.save` wrote.

    Raises:
        UserError: if ScaNN cannot run here or does not read these files.
    """
    try:
        return ScannSearcher(_scann().load_searcher(os.path.abspath(folder)), plan)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: ScaNN does not read this index ({reason}); build it anew") from error
