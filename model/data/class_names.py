"""The text embeddings of the class names that `pipelines.embed` wrote beside the memory, checked against the task."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines import schemas, storage
from pipelines.errors import UserError
from pipelines.schemas import EncoderInfo

_COLUMN = "value_text"


def load(
    path: str, encoders: Mapping[str, EncoderInfo], kinds: Sequence[str], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Returns for each kind of text value that is trained on, as `names_{kind}`, the embedded names.

    Args:
        path: of `classes.parquet`; empty arrays are returned for none if it is not there.
        encoders: of the memory's vector columns.
        kinds: of values that are trained on, such as `text`.
        names: of the C classes.

    Returns:
        float32 `[C, V]`, unit length, in the space of that kind of value.

    Raises:
        UserError: if the names are others than those of the task, or were embedded by another encoder.
    """
    columns = {kind: f"value_{kind}" for kind in kinds if f"value_{kind}".startswith(_COLUMN)}
    if not columns or not storage.exists(path):
        return {}
    remedy = "run pipelines.embed again, which embeds the names anew and nothing else"
    with schemas.open_parquet(path, ["name"]) as parquet:
        stored = parquet.schema_arrow
        table = parquet.read(["name", *(column for column in columns.values() if column in stored.names)])
    metadata = stored.metadata or {}
    if table["name"].to_pylist()[: len(names)] != [name.strip() for name in names]:
        raise UserError(f"{path}: holds other class names than --config.class_names; {remedy}")
    found = {}
    for kind, column in columns.items():
        if column not in table.column_names:
            continue
        made_by = metadata.get(f"{column}.fingerprint".encode(), b"").decode(errors="replace")
        if made_by != encoders[column].fingerprint:
            raise UserError(
                f"{path}: its {column} are of encoder {made_by}, those of the memory of "
                f"{encoders[column].fingerprint}; {remedy}"
            )
        vectors = schemas.to_matrix(table[column]).astype(np.float32)[: len(names)]
        found[f"names_{kind}"] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return found
