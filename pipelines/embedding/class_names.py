"""Embeds the names of the classes with the text encoders of the memory, into `classes.parquet` beside it.

A head may let the names meet the texts of what was retrieved. The file is whole or absent, and made anew only if the
names or the encoders are others. Which head reads it is left to `model`.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.base import Config
from pipelines import manifest, schemas, storage
from pipelines.encoders.handles import EncoderSet, EncoderSpec, TextEncoder, one_thread_a_call
from pipelines.errors import UserError
from pipelines.sources.listing import read_class_names


def synonyms(name: str) -> list[str]:
    """Returns the texts that a name stands for: its parts between commas, `_` read as a space; itself without any."""
    parts = [part.replace("_", " ").strip() for part in name.split(",")]
    return [part for part in parts if part] or [name]


def read(config: Config) -> list[str]:
    """Returns the class names that the config names a file of; empty without one.

    Raises:
        UserError: if the file cannot be read.
    """
    return read_class_names(storage.join(config.data, config.class_names)) if config.class_names else []


def run(names: list[str], config: Config, specs: Mapping[str, EncoderSpec]) -> int:
    """Writes the embedded class names, unless they are there.

    Args:
        names: of the classes.
        config: says where to.
        specs: of each vector column; the text encoders among them embed the names.

    Returns:
        How many classes are embedded; 0 without names or text encoder.

    Raises:
        UserError: if an encoder gives what is no number.
    """
    texts = {column: spec for column, spec in specs.items() if spec.kind == "text"}
    if not names or not texts:
        return 0
    infos = {column: dataclasses.asdict(spec.info) for column, spec in texts.items()}
    identity = {"names": names, "encoders": infos, "batch_size": config.embed.batch_size}
    config_hash = manifest.fingerprint(identity)
    if _stored_hash(config.classes_file) != config_hash:
        schema = schemas.classes({column: spec.info.dim for column, spec in texts.items()}, config.encoders.dtype)
        vectors = _encode(names, texts, config.embed.batch_size)
        arrays = {"label": pa.array(range(len(names)), pa.int32()), "name": pa.array(names, pa.string())}
        arrays |= {column: schemas.fixed_list(vectors[column], schema.field(column)) for column in texts}
        table = pa.Table.from_arrays([arrays[column] for column in schema.names], schema=schema)
        fingerprints = {f"{column}.fingerprint": spec.info.fingerprint for column, spec in texts.items()}
        schemas.write(config.classes_file, table, {"config_hash": config_hash, **fingerprints})
    return len(names)


def _stored_hash(path: str) -> str:
    """Returns the `config_hash` of a file that is there; empty for one that is not, or is damaged."""
    if not storage.exists(path):
        return ""
    try:
        with storage.open_read(path) as file:
            metadata = pq.read_schema(file).metadata or {}
    except storage.BROKEN_PARQUET:
        return ""
    is_current = metadata.get(b"schema_version") == str(schemas.SCHEMA_VERSION).encode()
    return metadata.get(b"config_hash", b"").decode(errors="replace") if is_current else ""


def _encode(names: list[str], specs: Mapping[str, EncoderSpec], batch_size: int) -> dict[str, np.ndarray]:
    """Returns for each column the vectors `[C, dim]` of the names: the mean of those of their synonyms, at unit length.

    One thread, and batches in the order of the names: the vectors do not depend on the workers of the job.
    """
    one_thread_a_call(1)
    parts = [synonyms(name) for name in names]
    texts = [text for part in parts for text in part]
    owners = np.repeat(np.arange(len(names)), [len(part) for part in parts])
    vectors: dict[str, np.ndarray] = {}
    for column, encoder in EncoderSet(specs).columns.items():
        if not isinstance(encoder, TextEncoder):
            raise TypeError(f"{column}: {specs[column].handle} is no text encoder")
        batches = [texts[first : first + batch_size] for first in range(0, len(texts), batch_size)]
        encoded = np.concatenate([encoder.encode(batch, batch_size) for batch in batches])
        if not np.isfinite(encoded).all():
            row = int(np.argmin(np.isfinite(encoded).all(axis=1)))
            raise UserError(f"encoder {specs[column].handle!r}: gives no number for the class name {texts[row]!r}")
        total = np.zeros((len(names), encoded.shape[1]))
        np.add.at(total, owners, encoded / np.maximum(np.linalg.norm(encoded, axis=1, keepdims=True), 1e-12))
        vectors[column] = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    return vectors
