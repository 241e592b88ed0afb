"""Writes the files of a ScaNN searcher, so that a shard's keys never have to be in memory all at once.

Partitions are trained on a sample here and written in ScaNN's format. Given them with keys but no codes, ScaNN's loader
trains the quantizer; given that too, it codes a chunk of keys. The codes of all chunks are joined here, and so are the
keys that re-rank candidates.

The files are in the format of ScaNN 1.4.2. See `scann_searcher` for how they are searched.
"""

import contextlib
import ctypes
import functools
import math
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from index.engines import kept_keys, partitions
from index.engines.planner import Plan, blocks, coded_rows
from index.engines.searcher import Keys
from pipelines.errors import UserError

ASSETS_FILE = "scann_assets.pbtxt"
CPU_INFO = "/proc/cpuinfo"
_INSTEAD = "use --config.index.searcher=exact, which needs neither"
ANISOTROPIC_THRESHOLD = 0.2
# Default of a search that names no number; ours always do.
_NUM_NEIGHBORS = 32
_PARTITIONER = {"PARTITIONER": "serialized_partitioner.pb"}
TRAINED = {"AH_CENTERS": "ah_codebook.pb", **_PARTITIONER}
_CONFIG_FILE = "scann_config.pb"
_TOKENS = {"TOKENIZATION_NPY": "datapoint_to_token.npy"}
_CODES = {"AH_DATASET_NPY": "hashed_dataset.npy"}
CHUNK = {"DATASET_NPY": "chunk.npy"}
_KEYS = {"float32": "DATASET_NPY", "bfloat16": "BF16_DATASET_NPY", "int8": "INT8_DATASET_NPY"}
_KEY_FILES = {"float32": kept_keys.FLOAT32, "bfloat16": kept_keys.BFLOAT16, "int8": kept_keys.INT8}
_MULTIPLIERS_FILE = kept_keys.MULTIPLIERS
_LARGEST_INT8 = 127
# Beside ScaNN's files: the row at each place, int32 `[n]`, and the means of the groups that queries are ordered by.
ROWS_FILE, GROUPS_FILE = "rows.npy", "groups.npy"
# Dimensions, over all partitions, that ScaNN gets at a time.
DIMS_AT_A_TIME = 65_536
# The published wheel has ScaNN's own test of the processor compiled out, so that it scans with SSE4 on every machine.
# Its switches, and what a processor must have for each.
SWITCHES = {
    "_ZN14research_scann14flags_internal15should_use_avx2E": {"avx2", "fma"},
    "_ZN14research_scann14flags_internal17should_use_avx512E": {
        "avx512f",
        "avx512dq",
        "avx512cd",
        "avx512bw",
        "avx512vl",
    },
}
# Standard error belongs to the whole process, so only one build at a time may divert it.
_STDERR_LOCK = threading.Lock()


def processor_flags() -> set[str] | None:
    """Returns the features of an x86 processor, by their names in Linux; None on other machines."""
    try:
        with open(CPU_INFO) as file:
            flags = re.search(r"^flags\s*:(.*)$", file.read(), re.MULTILINE)
    except OSError:
        return None
    return set(flags.group(1).split()) if flags else None


def library() -> Any:
    """Imports ScaNN, without the messages of the TensorFlow that it imports, and lets it use what the processor has.

    Raises:
        UserError: if ScaNN cannot run on this machine.
    """
    flags = processor_flags()
    # The import itself would kill the process.
    if flags is not None and "avx" not in flags:
        raise UserError(f"ScaNN needs a processor with AVX, which this one lacks; {_INSTEAD}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except Exception as error:  # With another version of TensorFlow, an error of TensorFlow ends the import.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"ScaNN cannot be imported ({reason}); install scann==1.4.2, or {_INSTEAD}") from error
    for switch, needed in SWITCHES.items():
        if flags and flags >= {"avx2", "fma"} | needed:
            turn_on(switch, scann_ops_pybind.scann_pybind.__file__)
    return scann_ops_pybind


@functools.cache
def turn_on(switch: str, binding: str) -> None:
    """Sets a switch by which ScaNN chooses its kernels; does nothing if a build of ScaNN has none."""
    with contextlib.suppress(ValueError):
        ctypes.c_bool.in_dll(ctypes.CDLL(binding), switch).value = True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides ScaNN's messages on its training, which no log level stops.

    It holds a lock: if two overlapped, the later would restore the standard error that the earlier had diverted.
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


def write(keys: Keys, plan: Plan, folder: str, centres: np.ndarray | None = None) -> None:
    """Writes the searcher of a shard into an empty folder; the same keys and plan give the same bytes.

    Memory holds the sample, its projection and a few chunks; files are mapped.

    Args:
        keys: of the shard, at least one.
        plan: of the shard.
        folder: a local one, which can be moved afterwards.
        centres: of the partitions, float32 `[leaves, d]`; by default they are trained.

    Raises:
        UserError: if ScaNN cannot run on this machine.
    """
    sample = keys.sample(plan.sample_rows or keys.rows)
    if not plan.leaves:
        brute = library().builder(sample, min(_NUM_NEIGHBORS, keys.rows), "dot_product").score_brute_force().build()
        brute.serialize(os.path.abspath(folder), relative_path=True)
        return
    with tempfile.TemporaryDirectory(prefix="scann-") as work:
        coder = Coder(sample, plan, work, centres)
        multipliers = _int8_multipliers(sample)
        del sample
        _write_coded(keys, plan, coder, multipliers, folder)
        np.save(os.path.join(folder, GROUPS_FILE), coder.group_means())
        coder.write_partitioner()
        if plan.reorder_on == "disk":
            _do_not_reorder(os.path.join(work, _CONFIG_FILE))
        for name in (*TRAINED.values(), _CONFIG_FILE):
            shutil.copyfile(os.path.join(work, name), os.path.join(folder, name))
    assets = {**TRAINED, **_TOKENS, **_CODES}
    if plan.reorder_on == "memory":
        assets[_KEYS[plan.reorder]] = _KEY_FILES[plan.reorder]
    if plan.reorder == "int8":
        np.save(os.path.join(folder, _MULTIPLIERS_FILE), multipliers)
        if plan.reorder_on == "memory":
            assets["INT8_MULTIPLIERS_NPY"] = _MULTIPLIERS_FILE
    with open(os.path.join(folder, ASSETS_FILE), "w") as file:
        file.write(assets_text(assets))


class Coder:
    """Codes chunks with partitions and a quantizer that it trains on a sample and keeps in a folder.

    ScaNN sets up each partition separately when it codes, which takes a third of a megabyte or more each. So it gets
    some of the partitions at a time, with the keys that are in them.
    """

    def __init__(self, sample: np.ndarray, plan: Plan, work: str, centres: np.ndarray | None = None) -> None:
        """Trains partitions, unless they are given, and quantizer.

        Args:
            sample: of the keys, float32 `[n, d]`.
            plan: of the shard.
            work: local folder for the files.
            centres: of the partitions, float32 `[leaves, d]`, in the space of the keys.
        """
        self._work, self._kept = os.path.abspath(work), _KEY_FILES[plan.reorder]
        self._axes = partitions.principal_axes(sample, plan.pca_dims) if plan.pca_dims else None
        projected = self._project(sample)
        if centres is None:
            self._centres = partitions.fit(projected, plan.leaves, plan.iterations)
        else:
            self._centres = self._project(centres)
        self.leaves_at_a_time = max(1, DIMS_AT_A_TIME // self._centres.shape[1])
        _write_config(sample, plan, os.path.join(work, _CONFIG_FILE))
        self._train(sample, partitions.nearest(projected, self._centres), plan.quantizer_rows)

    def _train(self, sample: np.ndarray, leaves: np.ndarray, rows: int) -> None:
        """Trains the quantizer on rows of some partitions, spread over the sample."""
        some = np.arange(0, len(self._centres), -(-len(self._centres) // self.leaves_at_a_time))
        inside = np.flatnonzero(np.isin(leaves, some))
        inside = inside[:: max(1, len(inside) // rows)]
        places = np.searchsorted(some, leaves[inside])
        self._run(sample[inside], places, self._centres[some], _PARTITIONER)
        name = TRAINED["AH_CENTERS"]
        os.replace(os.path.join(self._work, "coded", name), os.path.join(self._work, name))

    def leaves(self, chunk: np.ndarray) -> np.ndarray:
        """Returns the partitions of a chunk `[m, d]`, int32 `[m]`."""
        return partitions.nearest(self._project(chunk), self._centres)

    def group_means(self) -> np.ndarray:
        """Returns the means of groups of near partitions, in the space of the keys, float32 `[groups, d]`."""
        found = partitions.group_means(self._centres)
        return found if self._axes is None else found @ self._axes

    def code(self, chunk: np.ndarray, leaves: np.ndarray) -> dict[str, np.ndarray]:
        """Returns partitions int32, codes uint8 and kept keys of a chunk `[m, d]`, by file name."""
        coded: dict[str, np.ndarray] = {}
        for first in range(0, len(self._centres), self.leaves_at_a_time):
            inside = np.flatnonzero((leaves >= first) & (leaves < first + self.leaves_at_a_time))
            if not len(inside):
                continue
            self._run(chunk[inside], leaves[inside] - first, self._centres[first:][: self.leaves_at_a_time], TRAINED)
            for name in (*_CODES.values(), self._kept):
                part = np.load(os.path.join(self._work, "coded", name), allow_pickle=False)
                if name not in coded:
                    coded[name] = np.empty((len(chunk), *part.shape[1:]), part.dtype)
                coded[name][inside] = part
        return {**coded, **dict.fromkeys(_TOKENS.values(), leaves)}

    def write_partitioner(self) -> None:
        """Writes the partitioner of all partitions into the folder."""
        _write_partitioner(self._centres, self._axes, os.path.join(self._work, *_PARTITIONER.values()))

    def _project(self, keys: np.ndarray) -> np.ndarray:
        return keys if self._axes is None else keys @ self._axes.T

    def _run(self, keys: np.ndarray, leaves: np.ndarray, centres: np.ndarray, trained: dict[str, str]) -> None:
        """Has ScaNN train what is missing and code the keys, into the folder `coded`."""
        coded = os.path.join(self._work, "coded")
        os.makedirs(coded, exist_ok=True)
        _write_partitioner(centres, self._axes, os.path.join(self._work, *_PARTITIONER.values()))
        np.save(os.path.join(self._work, *CHUNK.values()), np.ascontiguousarray(keys, np.float32))
        np.save(os.path.join(self._work, *_TOKENS.values()), leaves.astype(np.int32))
        scann_numpy = library().scann_pybind.ScannNumpy
        with quiet():
            scann_numpy(self._work, assets_text({**trained, **_TOKENS, **CHUNK})).serialize(coded, True)


def _write_config(sample: np.ndarray, plan: Plan, path: str) -> None:
    scann = library()
    from google.protobuf import text_format
    from scann.proto.scann_pb2 import ScannConfig

    builder = scann.builder(sample, min(_NUM_NEIGHBORS, len(sample)), "dot_product")
    if plan.pca_dims:
        builder = builder.pca(reduction_dim=plan.pca_dims, pca_significance_threshold=None)
    builder = builder.tree(num_leaves=plan.leaves, num_leaves_to_search=plan.leaves)
    builder = builder.score_ah(
        plan.dims_per_block,
        anisotropic_quantization_threshold=ANISOTROPIC_THRESHOLD,
        training_sample_size=plan.quantizer_rows,
    )
    kind = {name: getattr(scann.scann_builder.ReorderType, name.upper()) for name in _KEYS}[plan.reorder]
    text = builder.reorder(min(_NUM_NEIGHBORS, len(sample)), quantize=kind).create_config()
    config = text_format.Parse(text, ScannConfig())
    # One list of candidates for all leaves of a query. The builder has one for each leaf from 513 dimensions on, since
    # the sums of more than 256 codes may overflow 16 bits; `blocks` makes at most 90.
    config.hash.asymmetric_hash.use_global_topn = True
    coded = config.hash.asymmetric_hash.projection
    coded.Clear()
    coded.projection_type, coded.input_dim = coded.VARIABLE_CHUNK, sample.shape[1]
    for number, width in blocks(plan, sample.shape[1]):
        coded.variable_blocks.add(num_blocks=number, num_dims_per_block=width)
    with open(path, "wb") as file:
        file.write(config.SerializeToString(deterministic=True))


def _do_not_reorder(path: str) -> None:
    """Takes the re-ranking out of a written config: ScaNN then loads no keys, and returns all candidates."""
    from scann.proto.scann_pb2 import ScannConfig

    config = ScannConfig()
    with open(path, "rb") as file:
        config.ParseFromString(file.read())
    config.ClearField("exact_reordering")
    with open(path, "wb") as file:
        file.write(config.SerializeToString(deterministic=True))


def _write_partitioner(centres: np.ndarray, axes: np.ndarray | None, path: str) -> None:
    from scann.partitioning.partitioner_pb2 import SerializedPartitioner

    partitioner = SerializedPartitioner(n_tokens=len(centres), uses_projection=axes is not None)
    tree = partitioner.kmeans.kmeans_tree
    tree.root.learned_spilling_threshold, tree.root.leaf_id = math.nan, -1
    for leaf, centre in enumerate(centres.tolist()):
        tree.root.centers.add(dimension=centre)
        tree.root.children.add(leaf_id=leaf, learned_spilling_threshold=math.nan)
    for axis in [] if axes is None else axes.tolist():
        vector = partitioner.serialized_projection.rotation_vec.add(feature_value_float=axis)
        vector.feature_type = vector.FLOAT
    with open(path, "wb") as file:
        file.write(partitioner.SerializeToString(deterministic=True))


def _write_coded(keys: Keys, plan: Plan, coder: Coder, multipliers: np.ndarray, folder: str) -> None:
    """Codes the keys in chunks, and writes codes and kept keys in the order of the partitions.

    Queries near each other visit the same partitions, and their candidates are then near each other in memory.
    """
    leaves = np.concatenate([coder.leaves(chunk) for chunk in keys.chunks()])
    order = np.argsort(leaves, kind="stable")
    places = np.empty(keys.rows, np.int64)
    places[order] = np.arange(keys.rows)
    np.save(os.path.join(folder, ROWS_FILE), order.astype(np.int32))
    files: dict[str, np.memmap] = {}
    begin = 0
    for chunk in _joined(keys, coded_rows(plan)):
        rows = slice(begin, begin + len(chunk))
        parts = coder.code(chunk, leaves[rows])
        if plan.reorder == "int8":
            # ScaNN's own codes would fill the range of each chunk.
            fixed = np.clip(np.rint(chunk * multipliers), -_LARGEST_INT8, _LARGEST_INT8)
            parts[_KEY_FILES["int8"]] = fixed.astype(np.int8)
        for name, part in parts.items():
            if name not in files:
                path, shape = os.path.join(folder, name), (keys.rows, *part.shape[1:])
                files[name] = np.lib.format.open_memmap(path, mode="w+", dtype=part.dtype, shape=shape)
            files[name][places[rows]] = part
        begin += len(chunk)
    for file in files.values():
        file.flush()


def _joined(keys: Keys, rows: int) -> Iterator[np.ndarray]:
    """Yields the keys in chunks of at least `rows`, of fewer at the end."""
    parts: list[np.ndarray] = []
    for chunk in keys.chunks():
        parts.append(chunk)
        if sum(map(len, parts)) >= rows:
            yield np.concatenate(parts)
            parts = []
    if parts:
        yield np.concatenate(parts)


def _int8_multipliers(sample: np.ndarray) -> np.ndarray:
    """Returns the factor of each dimension that makes the sample fill the range of an int8, `[d]` float32."""
    largest = np.abs(sample).max(axis=0)
    return (_LARGEST_INT8 / np.where(largest > 0, largest, 1)).astype(np.float32)


def assets_text(files: dict[str, str]) -> str:
    """Returns ScaNN's list of the files of a searcher, by their kind."""
    return "".join(f'assets {{ asset_type: {kind} asset_path: "{name}" }}\n' for kind, name in files.items())
