"""Writes the files of a ScaNN searcher, so that a shard's keys need never be in memory at once.

Partitions are trained on a sample and written as ScaNN's own. Given them with keys but no codes, its loader trains the
quantizer, and given that, too, it codes a chunk of keys; the codes of the chunks are joined here, and so are the keys
as they are kept for scoring candidates anew.

Which files there are and what is in them is ScaNN 1.4.2's own format. Searching them is left to `scann_searcher`.
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

from index.engines import partitions
from index.engines.planner import Plan, blocks
from index.engines.searcher import Keys
from pipelines.errors import UserError

ASSETS_FILE = "scann_assets.pbtxt"
_CPU_INFO = "/proc/cpuinfo"
_INSTEAD = "use --config.index.searcher=exact, which needs neither"
_ANISOTROPIC_THRESHOLD = 0.2
# Only what a search takes that names none; ours name both.
_NUM_NEIGHBORS = 32
_PARTITIONER = {"PARTITIONER": "serialized_partitioner.pb"}
_TRAINED = {"AH_CENTERS": "ah_codebook.pb", **_PARTITIONER}
_CONFIG_FILE = "scann_config.pb"
_TOKENS = {"TOKENIZATION_NPY": "datapoint_to_token.npy"}
_CODES = {"AH_DATASET_NPY": "hashed_dataset.npy"}
_CHUNK = {"DATASET_NPY": "chunk.npy"}
_KEYS = {"float32": "DATASET_NPY", "bfloat16": "BF16_DATASET_NPY", "int8": "INT8_DATASET_NPY"}
_KEY_FILES = {"float32": "dataset.npy", "bfloat16": "bfloat16_dataset.npy", "int8": "int8_dataset.npy"}
_MULTIPLIERS_FILE = "int8_multipliers.npy"
_LARGEST_INT8 = 127
# Dimensions of all partitions that ScaNN is given at a time.
_DIMS_AT_A_TIME = 65_536
# ScaNN's own test for AVX2 is compiled out of the published wheel, which so scans with SSE4 wherever it runs.
_AVX2_SWITCH = "_ZN14research_scann14flags_internal15should_use_avx2E"
# Standard error belongs to the whole process: one build at a time may divert it.
_STDERR_LOCK = threading.Lock()


def _processor_flags() -> set[str] | None:
    """Returns what an x86 processor can do, by the names that Linux has for it; None elsewhere."""
    try:
        with open(_CPU_INFO) as file:
            flags = re.search(r"^flags\s*:(.*)$", file.read(), re.MULTILINE)
    except OSError:
        return None
    return set(flags.group(1).split()) if flags else None


def library() -> Any:
    """Imports ScaNN, whose own import of TensorFlow would otherwise fill the screen, and lets it use AVX2.

    Raises:
        UserError: if ScaNN cannot run on this machine.
    """
    flags = _processor_flags()
    # The import itself would kill the process.
    if flags is not None and "avx" not in flags:
        raise UserError(f"ScaNN needs a processor with AVX, which this one lacks; {_INSTEAD}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except Exception as error:  # With another TensorFlow it is an error of TensorFlow's own that ends the import.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"ScaNN cannot be imported ({reason}); install scann==1.4.2, or {_INSTEAD}") from error
    if flags and flags >= {"avx2", "fma"}:
        _use_avx2(scann_ops_pybind.scann_pybind.__file__)
    return scann_ops_pybind


@functools.cache
def _use_avx2(binding: str) -> None:
    """Sets what ScaNN asks before it chooses a kernel; a build of it without such a switch is left as it is."""
    with contextlib.suppress(ValueError):
        ctypes.c_bool.in_dll(ctypes.CDLL(binding), _AVX2_SWITCH).value = True


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


def write(keys: Keys, plan: Plan, folder: str) -> None:
    """Writes the searcher of a shard into an empty folder; the same keys and plan give the same bytes.

    Memory is that of the sample and its projection, and of a few chunks; files are mapped.

    Args:
        keys: of the shard, at least one.
        plan: of the shard.
        folder: local; it can be moved afterwards.

    Raises:
        UserError: if ScaNN cannot run on this machine.
    """
    sample = keys.sample(plan.sample_rows or keys.rows)
    if not plan.leaves:
        brute = library().builder(sample, min(_NUM_NEIGHBORS, keys.rows), "dot_product").score_brute_force().build()
        brute.serialize(os.path.abspath(folder), relative_path=True)
        return
    with tempfile.TemporaryDirectory(prefix="scann-") as work:
        coder = _Coder(sample, plan, work)
        multipliers = _int8_multipliers(sample)
        del sample
        _write_coded(keys, plan, coder, multipliers, folder)
        coder.write_partitioner()
        for name in (*_TRAINED.values(), _CONFIG_FILE):
            shutil.copyfile(os.path.join(work, name), os.path.join(folder, name))
    assets = {**_TRAINED, **_TOKENS, **_CODES, _KEYS[plan.reorder]: _KEY_FILES[plan.reorder]}
    if plan.reorder == "int8":
        np.save(os.path.join(folder, _MULTIPLIERS_FILE), multipliers)
        assets["INT8_MULTIPLIERS_NPY"] = _MULTIPLIERS_FILE
    with open(os.path.join(folder, ASSETS_FILE), "w") as file:
        file.write(_assets(assets))


class _Coder:
    """Codes chunks with what it trained on a sample and keeps in a folder.

    ScaNN sets up each partition on its own when it codes, at a third of a megabyte and more. So it is given some of the
    partitions at a time, with the keys that are in them.
    """

    def __init__(self, sample: np.ndarray, plan: Plan, work: str) -> None:
        self._work, self._kept = os.path.abspath(work), _KEY_FILES[plan.reorder]
        self._axes = partitions.principal_axes(sample, plan.pca_dims) if plan.pca_dims else None
        projected = self._project(sample)
        self._centres = partitions.fit(projected, plan.leaves, plan.iterations)
        self._leaves_at_a_time = max(1, _DIMS_AT_A_TIME // self._centres.shape[1])
        _write_config(sample, plan, os.path.join(work, _CONFIG_FILE))
        self._train(sample, partitions.nearest(projected, self._centres), plan.quantizer_rows)

    def _train(self, sample: np.ndarray, leaves: np.ndarray, rows: int) -> None:
        """Trains the quantizer on rows of some partitions that are spread over the sample."""
        some = np.arange(0, len(self._centres), -(-len(self._centres) // self._leaves_at_a_time))
        inside = np.flatnonzero(np.isin(leaves, some))
        inside = inside[:: max(1, len(inside) // rows)]
        places = np.searchsorted(some, leaves[inside])
        self._run(sample[inside], places, self._centres[some], _PARTITIONER)
        name = _TRAINED["AH_CENTERS"]
        os.replace(os.path.join(self._work, "coded", name), os.path.join(self._work, name))

    def code(self, chunk: np.ndarray) -> dict[str, np.ndarray]:
        """Returns partitions int32, codes uint8 and kept keys of a chunk `[m, d]`, by file name."""
        leaves = partitions.nearest(self._project(chunk), self._centres)
        coded: dict[str, np.ndarray] = {}
        for first in range(0, len(self._centres), self._leaves_at_a_time):
            inside = np.flatnonzero((leaves >= first) & (leaves < first + self._leaves_at_a_time))
            if not len(inside):
                continue
            self._run(chunk[inside], leaves[inside] - first, self._centres[first:][: self._leaves_at_a_time], _TRAINED)
            for name in (*_CODES.values(), self._kept):
                part = np.load(os.path.join(self._work, "coded", name), allow_pickle=False)
                if name not in coded:
                    coded[name] = np.empty((len(chunk), *part.shape[1:]), part.dtype)
                coded[name][inside] = part
        return {**coded, **dict.fromkeys(_TOKENS.values(), leaves)}

    def write_partitioner(self) -> None:
        """Leaves the partitioner of all partitions in the folder."""
        _write_partitioner(self._centres, self._axes, os.path.join(self._work, *_PARTITIONER.values()))

    def _project(self, keys: np.ndarray) -> np.ndarray:
        return keys if self._axes is None else keys @ self._axes.T

    def _run(self, keys: np.ndarray, leaves: np.ndarray, centres: np.ndarray, trained: dict[str, str]) -> None:
        """Has ScaNN make of keys what is not trained yet, into the folder `coded`."""
        coded = os.path.join(self._work, "coded")
        os.makedirs(coded, exist_ok=True)
        _write_partitioner(centres, self._axes, os.path.join(self._work, *_PARTITIONER.values()))
        np.save(os.path.join(self._work, *_CHUNK.values()), np.ascontiguousarray(keys, np.float32))
        np.save(os.path.join(self._work, *_TOKENS.values()), leaves.astype(np.int32))
        scann_numpy = library().scann_pybind.ScannNumpy
        with _quiet():
            scann_numpy(self._work, _assets({**trained, **_TOKENS, **_CHUNK})).serialize(coded, True)


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
        anisotropic_quantization_threshold=_ANISOTROPIC_THRESHOLD,
        training_sample_size=plan.quantizer_rows,
    )
    kind = {name: getattr(scann.scann_builder.ReorderType, name.upper()) for name in _KEYS}[plan.reorder]
    text = builder.reorder(min(_NUM_NEIGHBORS, len(sample)), quantize=kind).create_config()
    config = text_format.Parse(text, ScannConfig())
    coded = config.hash.asymmetric_hash.projection
    coded.Clear()
    coded.projection_type, coded.input_dim = coded.VARIABLE_CHUNK, sample.shape[1]
    for number, width in blocks(plan, sample.shape[1]):
        coded.variable_blocks.add(num_blocks=number, num_dims_per_block=width)
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


def _write_coded(keys: Keys, plan: Plan, coder: _Coder, multipliers: np.ndarray, folder: str) -> None:
    """Codes the keys in chunks, and writes codes and kept keys."""
    files: dict[str, np.memmap] = {}
    begin = 0
    for chunk in keys.chunks():
        parts = coder.code(chunk)
        if plan.reorder == "int8":
            # ScaNN's own fill the range of each chunk.
            fixed = np.clip(np.rint(chunk * multipliers), -_LARGEST_INT8, _LARGEST_INT8)
            parts[_KEY_FILES["int8"]] = fixed.astype(np.int8)
        for name, part in parts.items():
            if name not in files:
                path, shape = os.path.join(folder, name), (keys.rows, *part.shape[1:])
                files[name] = np.lib.format.open_memmap(path, mode="w+", dtype=part.dtype, shape=shape)
            files[name][begin : begin + len(part)] = part
        begin += len(chunk)
    for file in files.values():
        file.flush()


def _int8_multipliers(sample: np.ndarray) -> np.ndarray:
    """Returns what each dimension is multiplied with so that the sample fills the range of an int8, `[d]` float32."""
    largest = np.abs(sample).max(axis=0)
    return (_LARGEST_INT8 / np.where(largest > 0, largest, 1)).astype(np.float32)


def _assets(files: dict[str, str]) -> str:
    return "".join(f'assets {{ asset_type: {kind} asset_path: "{name}" }}\n' for kind, name in files.items())
