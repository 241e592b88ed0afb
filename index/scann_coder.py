"""Writes the files of a ScaNN searcher, so that a shard's keys need never be in memory at once.

ScaNN trains partitions and quantizer on a sample and saves them. Given them with a chunk of keys and no codes, its
loader codes the chunk, with the very bits that a build of all keys with this sample would give; the codes of the
chunks are joined here, and so are the keys as they are kept for scoring candidates anew.

Which files there are and what is in them is ScaNN 1.4.2's own format. Searching them is left to `scann_searcher`.
"""

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from index.planner import Plan
from index.searcher import Keys
from pipelines.errors import UserError

ASSETS_FILE = "scann_assets.pbtxt"
_CPU_INFO = "/proc/cpuinfo"
_INSTEAD = "use --config.index.searcher=exact, which needs neither"
_ANISOTROPIC_THRESHOLD = 0.2
# Only what a search takes that names none; ours name both.
_NUM_NEIGHBORS = 32
_TRAINED = {"AH_CENTERS": "ah_codebook.pb", "PARTITIONER": "serialized_partitioner.pb"}
_CONFIG_FILE = "scann_config.pb"
_CODES = {
    "TOKENIZATION_NPY": "datapoint_to_token.npy",
    "AH_DATASET_NPY": "hashed_dataset.npy",
    "AH_DATASET_SOAR_NPY": "hashed_dataset_soar.npy",
}
_KEYS = {"float32": "DATASET_NPY", "bfloat16": "BF16_DATASET_NPY", "int8": "INT8_DATASET_NPY"}
_KEY_FILES = {"float32": "dataset.npy", "bfloat16": "bfloat16_dataset.npy", "int8": "int8_dataset.npy"}
_MULTIPLIERS_FILE = "int8_multipliers.npy"
_LARGEST_INT8 = 127
# Standard error belongs to the whole process: one build at a time may divert it.
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


def library() -> Any:
    """Imports ScaNN, whose own import of TensorFlow would otherwise fill the screen.

    Raises:
        UserError: if ScaNN cannot run on this machine.
    """
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


def write(keys: Keys, plan: Plan, folder: str) -> None:
    """Writes the searcher of a shard into an empty folder; the same keys and plan give the same bytes.

    Memory is that of the sample, twice, and of a few chunks; files are mapped.

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
        _train(sample, plan, work)
        for name in (*_TRAINED.values(), _CONFIG_FILE):
            shutil.copyfile(os.path.join(work, name), os.path.join(folder, name))
        multipliers = _int8_multipliers(sample)
        del sample
        _write_coded(keys, plan, multipliers, work, folder)
    assets = {**_TRAINED, **_codes(plan), _KEYS[plan.reorder]: _KEY_FILES[plan.reorder]}
    if plan.reorder == "int8":
        np.save(os.path.join(folder, _MULTIPLIERS_FILE), multipliers)
        assets["INT8_MULTIPLIERS_NPY"] = _MULTIPLIERS_FILE
    with open(os.path.join(folder, ASSETS_FILE), "w") as file:
        file.write(_assets(assets))


def _train(sample: np.ndarray, plan: Plan, folder: str) -> None:
    scann = library()
    builder = scann.builder(sample, min(_NUM_NEIGHBORS, len(sample)), "dot_product")
    if plan.pca_dims:
        builder = builder.pca(reduction_dim=plan.pca_dims, pca_significance_threshold=None)
    builder = builder.tree(
        num_leaves=plan.leaves,
        num_leaves_to_search=plan.leaves,
        training_sample_size=len(sample),
        training_iterations=plan.iterations,
        # The default of 50 leaves partitions empty where a leaf has few training rows, and recall collapses.
        min_partition_size=1,
        # A random start differs from build to build; k-means++ does not, and costs less than a second pass.
        random_init=False,
        soar_lambda=plan.soar or None,
    )
    builder = builder.score_ah(
        plan.dims_per_block,
        anisotropic_quantization_threshold=_ANISOTROPIC_THRESHOLD,
        training_sample_size=plan.quantizer_rows,
    )
    kind = {name: getattr(scann.scann_builder.ReorderType, name.upper()) for name in _KEYS}[plan.reorder]
    with _quiet():
        trained = builder.reorder(min(_NUM_NEIGHBORS, len(sample)), quantize=kind).build()
    trained.serialize(os.path.abspath(folder), relative_path=True)


def _write_coded(keys: Keys, plan: Plan, multipliers: np.ndarray, work: str, folder: str) -> None:
    """Codes the keys in chunks with what is trained in `work`, and writes codes and rounded keys."""
    files: dict[str, np.memmap] = {}
    begin = 0
    for chunk in keys.chunks():
        parts = _code(chunk, plan, work)
        if plan.reorder == "int8":
            # ScaNN's own fill the range of each chunk.
            fixed = np.clip(np.rint(chunk * multipliers), -_LARGEST_INT8, _LARGEST_INT8)
            parts[_KEY_FILES["int8"]] = fixed.astype(np.int8)
        for name, part in parts.items():
            # SOAR gives each row two partitions, one after the other.
            a_row = len(part) // len(chunk)
            if name not in files:
                shape = (keys.rows * a_row, *part.shape[1:])
                path = os.path.join(folder, name)
                files[name] = np.lib.format.open_memmap(path, mode="w+", dtype=part.dtype, shape=shape)
            files[name][begin * a_row : begin * a_row + len(part)] = part
        begin += len(chunk)
    for file in files.values():
        file.flush()


def _code(chunk: np.ndarray, plan: Plan, work: str) -> dict[str, np.ndarray]:
    """Returns partitions int32, codes uint8 and kept keys of a chunk `[m, d]`, by file name."""
    coded = os.path.join(work, "coded")
    os.makedirs(coded, exist_ok=True)
    np.save(os.path.join(work, "chunk.npy"), np.ascontiguousarray(chunk, np.float32))
    scann_numpy = library().scann_pybind.ScannNumpy
    with _quiet():
        searcher = scann_numpy(os.path.abspath(work), _assets({**_TRAINED, "DATASET_NPY": "chunk.npy"}))
    searcher.serialize(os.path.abspath(coded), True)
    names = (*_codes(plan).values(), _KEY_FILES[plan.reorder])
    return {name: np.load(os.path.join(coded, name), allow_pickle=False) for name in names}


def _codes(plan: Plan) -> dict[str, str]:
    return {kind: name for kind, name in _CODES.items() if plan.soar or "SOAR" not in kind}


def _int8_multipliers(sample: np.ndarray) -> np.ndarray:
    """Returns what each dimension is multiplied with so that the sample fills the range of an int8, `[d]` float32."""
    largest = np.abs(sample).max(axis=0)
    return (_LARGEST_INT8 / np.where(largest > 0, largest, 1)).astype(np.float32)


def _assets(files: dict[str, str]) -> str:
    return "".join(f'assets {{ asset_type: {kind} asset_path: "{name}" }}\n' for kind, name in files.items())
