"""Embeds the names of the classes with the text encoders of the memory, into `classes.parquet` beside it.

Heads may compare the names with the texts of retrieved rows. The file is whole or absent, and is written again only if
the names or the encoders change. Which head reads it is up to `model`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.base import Places
from pipelines import class_names, manifest, schemas, storage
from pipelines.encoders.handles import EncoderSpec
from pipelines.encoders.loaded import EncoderSet, TextEncoder
from pipelines.encoders.process import one_thread_a_call
from pipelines.errors import UserError


def phrases(name: str) -> list[str]:
    """Returns the texts that are embedded for a class: its synonyms with spaces for `_`, or the name without any."""
    texts = [part.replace("_", " ").strip() for part in class_names.synonyms(name)]
    return [text for text in texts if text] or [name]


def read(places: Places) -> list[str]:
    """Returns the names in the config's file of class names; none without such a file.

    Raises:
        UserError: if the file cannot be read.
    """
    return class_names.read(storage.join(places.data, places.class_names)) if places.class_names else []


def write(names: list[str], specs: Mapping[str, EncoderSpec], path: str, batch_size: int) -> int:
    """Writes the embedded class names, unless the file has them already.

    Args:
        names: of the classes.
        specs: of each vector column; the text encoders among them embed the names. The first whose space is that of
            the keys is noted in the file.
        path: of the file.
        batch_size: texts in each encoder call.

    Returns:
        The number of embedded classes; 0 without names or without a text encoder.

    Raises:
        UserError: if an encoder returns values that are not finite, or only zeros.
    """
    texts = {column: spec for column, spec in specs.items() if spec.kind == "text"}
    if not names or not texts:
        return 0
    infos = {column: dataclasses.asdict(spec.info) for column, spec in texts.items()}
    identity: dict[str, Any] = {"names": names, "encoders": infos, "batch_size": batch_size}
    shared = _of_key_space(specs)
    config_hash = manifest.fingerprint({**identity, "shared": shared} if shared else identity)
    if _stored_hash(path) != config_hash:
        fingerprints = {f"{column}.fingerprint": spec.info.fingerprint for column, spec in texts.items()}
        table = _table(names, texts, _encode(names, texts, batch_size))
        schemas.write(path, table, {"config_hash": config_hash, schemas.KEY_SPACE: shared, **fingerprints})
    return len(names)


def _of_key_space(specs: Mapping[str, EncoderSpec]) -> str:
    """Returns the first column of texts whose encoder shares the space of the keys; empty if there is none."""
    key = specs.get("key")
    if key is None or not key.space:
        return ""
    wanted = ("text", key.space, key.info.dim)
    return next((name for name, spec in specs.items() if (spec.kind, spec.space, spec.info.dim) == wanted), "")


def _stored_hash(path: str) -> str:
    """Returns the `config_hash` of the file; empty if it is missing or damaged."""
    if not storage.exists(path):
        return ""
    try:
        with storage.open_read(path) as file:
            metadata = pq.read_schema(file).metadata or {}
    except storage.BROKEN_PARQUET:
        return ""
    is_current = metadata.get(b"schema_version") == str(schemas.SCHEMA_VERSION).encode()
    return metadata.get(b"config_hash", b"").decode(errors="replace") if is_current else ""


def _table(names: list[str], texts: Mapping[str, EncoderSpec], vectors: Mapping[str, np.ndarray]) -> pa.Table:
    dtype = next(iter(texts.values())).info.dtype
    schema = schemas.classes({column: spec.info.dim for column, spec in texts.items()}, dtype)
    arrays = {"label": pa.array(range(len(names)), pa.int32()), "name": pa.array(names, pa.string())}
    arrays |= {column: schemas.fixed_list(matrix, schema.field(column)) for column, matrix in vectors.items()}
    return pa.Table.from_arrays([arrays[column] for column in schema.names], schema=schema)


def _encode(names: list[str], specs: Mapping[str, EncoderSpec], batch_size: int) -> dict[str, np.ndarray]:
    """Returns for each column the vectors `[C, dim]` of the names.

    One thread, and batches in the order of the names, so that the vectors do not depend on the job's workers.
    """
    one_thread_a_call(1)
    vectors: dict[str, np.ndarray] = {}
    for column, encoder in EncoderSet(specs).columns.items():
        if not isinstance(encoder, TextEncoder):
            raise TypeError(f"{column}: {specs[column].handle} is not a text encoder")
        vectors[column] = encode(names, encoder, specs[column], batch_size)
    return vectors


def encode(names: Sequence[str], encoder: TextEncoder, spec: EncoderSpec, batch_size: int) -> np.ndarray:
    """Returns the vectors `[C, dim]` of names as they are stored: the mean over their phrases, at unit length.

    Args:
        names: of classes.
        encoder: loaded.
        spec: of the encoder.
        batch_size: texts in each encoder call.

    Raises:
        UserError: if the encoder returns values that are not finite, or only zeros.
    """
    parts = [phrases(name) for name in names]
    texts = [text for part in parts for text in part]
    owners = np.repeat(np.arange(len(names)), [len(part) for part in parts])
    encoded = encoder.encode_all(texts, batch_size)
    _check(encoded, texts, spec.handle)
    total = np.zeros((len(names), encoded.shape[1]))
    np.add.at(total, owners, encoded / np.maximum(np.linalg.norm(encoded, axis=1, keepdims=True), 1e-12))
    unit = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    vectors = spec.info.stored(unit)
    _check(vectors, names, spec.handle)
    return vectors


def _check(vectors: np.ndarray, texts: Sequence[str], handle: str) -> None:
    """Raises a `UserError` that names the first text whose vector has no direction or is not finite."""
    zero, broken = schemas.unusable(vectors)
    for rows, what in ((broken, "values that are not finite"), (zero, "a vector of zeros")):
        if rows:
            raise UserError(f"encoder {handle!r}: returns {what} for the class name {texts[rows[0]]!r}")
