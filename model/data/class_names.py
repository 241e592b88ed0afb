"""The class names of a task, and their text embeddings that `pipelines.embed` wrote beside the memory."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from configs.base import Places
from pipelines import class_names, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.progress import counted
from pipelines.schemas import EncoderInfo

_COLUMN = "value_text"
_REMEDY = "run web-memory embed again, which embeds the names again and nothing else"
_SMALLEST_LENGTH = 1e-12
KEYS = "key"
"""The kind of the names that are in the space of the keys, and their column."""


def read(places: Places, classes: int) -> list[str]:
    """Returns the names of the classes: the config's, otherwise those that the training set was embedded with.

    Args:
        places: of the file of class names and of the embedded training set.
        classes: how many there are; without any names they are called by their numbers.

    Raises:
        UserError: if there are too few names.
    """
    names, path = known(places)
    if not names:
        return [f"class {label}" for label in range(classes)]
    if len(names) < classes:
        raise UserError(f"{path}: names {counted(len(names), 'class')}, the labels go up to {classes - 1}")
    return names


def known(places: Places) -> tuple[list[str], str]:
    """Returns the names of the classes, if there are any, and the file or folder that they are from."""
    if places.class_names:
        path = storage.join(places.data, places.class_names)
        return class_names.read(path), path
    folder = places.queries("train")
    return Embeddings(folder).class_names, folder


def fingerprint(path: str) -> str:
    """Returns the fingerprint of everything that decides the embedded names of `classes.parquet`; empty without any."""
    if not storage.exists(path):
        return ""
    with schemas.open_parquet(path, ["name"]) as parquet:
        return _metadata(parquet.schema_arrow, "config_hash")


def _metadata(stored: pa.Schema, name: str) -> str:
    return (stored.metadata or {}).get(name.encode(), b"").decode(errors="replace")


def load(
    path: str, encoders: Mapping[str, EncoderInfo], kinds: Sequence[str], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Returns the embedded names for each kind of text value that is trained on.

    Args:
        path: of `classes.parquet`; if there is no such file, the result is empty.
        encoders: of the memory's vector columns.
        kinds: of values that are trained on, such as `text`.
        names: of the C classes.

    Returns:
        float32 `[C, V]`, unit length, in the space of that kind of value; a kind that the file lacks is left out. Under
        `key` the names in the space of the keys, if a text encoder of the memory shares it.

    Raises:
        UserError: if the names are not those of the task, or were embedded by another encoder.
    """
    if not storage.exists(path):
        return {}
    columns = {kind: f"value_{kind}" for kind in kinds if f"value_{kind}".startswith(_COLUMN)} | {KEYS: KEYS}
    with schemas.open_parquet(path, ["name"]) as parquet:
        stored = parquet.schema_arrow
        present = [kind for kind, column in columns.items() if column in stored.names and column in encoders]
        if not present:
            return {}
        table = parquet.read(["name", *(columns[kind] for kind in present)])
    if table["name"].to_pylist()[: len(names)] != [name.strip() for name in names]:
        raise UserError(f"{path}: holds other class names than --config.class_names; {_REMEDY}")
    made_by = {columns[kind] for kind in present}
    if KEYS in present:
        made_by.add(_metadata(stored, schemas.KEY_SPACE))
    for column in sorted(made_by):
        _check_encoder(path, stored, column, encoders.get(column))
    return {kind: _unit(schemas.to_matrix(table[columns[kind]]), len(names)) for kind in present}


def _check_encoder(path: str, stored: pa.Schema, column: str, wanted: EncoderInfo | None) -> None:
    made_by = _metadata(stored, f"{column}.fingerprint")
    of_memory = wanted.fingerprint if wanted else "none"
    if made_by != of_memory:
        raise UserError(f"{path}: its {column} are of encoder {made_by}, those of the memory of {of_memory}; {_REMEDY}")


def _unit(vectors: np.ndarray, count: int) -> np.ndarray:
    vectors = vectors.astype(np.float32)[:count]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _SMALLEST_LENGTH)
