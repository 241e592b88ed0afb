"""Columns of Arrow as arrays of NumPy, and back: vectors, digests, thumbnails, keys of unit length."""

import numpy as np
import pyarrow as pa

from pipelines.errors import UserError
from pipelines.schemas.rows import DIGEST, THUMBNAIL_SIDE, EncoderInfo
from pipelines.schemas.vectors import unit


def fixed_list(values: np.ndarray, field: pa.Field) -> pa.Array:
    """Returns rows `[n, width]` as an Arrow array of fixed-size lists of the field's type."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=field.type.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, type=field.type)


def to_matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Returns a column of fixed-size lists as an array `[n, width]` of its own dtype, without padding or nulls.

    Raises:
        UserError: if the column is something else.
    """
    if not pa.types.is_fixed_size_list(column.type):
        raise UserError(
            f"a column of vectors is of type {column.type}: its file is damaged; remove it and run its stage again"
        )
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    width = column.type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in chunks]
    return np.concatenate(parts) if parts else pa.array([], column.type.value_type).to_numpy().reshape(0, width)


def content_keys(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Returns a column of 32-byte digests as an array `S32` `[n]`, which compares and sorts bytewise.

    Raises:
        UserError: if the column is something else.
    """
    if column.type != DIGEST or column.null_count:
        raise UserError(
            f"a column of digests is of type {column.type}, {column.null_count} of them missing: its file is damaged; "
            "remove it and run its stage again"
        )
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [np.frombuffer(chunk.buffers()[1], "S32")[chunk.offset :][: len(chunk)] for chunk in chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.empty(0, "S32")


def digests(images: np.ndarray) -> pa.Array:
    """Returns the column of some digests, `S32` `[n]` or uint8 `[n, 32]`: the opposite of `content_keys`."""
    return pa.FixedSizeBinaryArray.from_buffers(DIGEST, len(images), [None, pa.py_buffer(images.tobytes())])


def thumbnails(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a column of thumbnails as uint8 `[n, side, side]`, black where there is none, and where there is one."""
    blank = bytes(THUMBNAIL_SIDE**2)
    grey = b"".join(value or blank for value in column.to_pylist())
    shape = (-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.frombuffer(grey, np.uint8).reshape(shape), column.is_valid().to_numpy(zero_copy_only=False)


def unit_keys(column: pa.Array | pa.ChunkedArray, info: EncoderInfo, where: str) -> np.ndarray:
    """Returns a key column as float32 `[n, d]` of unit length, so that dot products are cosines.

    Args:
        column: fixed-size lists, of float16 or float32.
        info: of the key encoder; keys that it calls normalised are left as they are.
        where: what to name in an error.

    Raises:
        UserError: if a key is not of the encoder's width or has a value that is not finite.
    """
    keys = to_matrix(column)
    if keys.shape[1] != info.dim:
        raise UserError(
            f"{where}: its keys have {keys.shape[1]} values, not {info.dim}; remove its file and embed again"
        )
    finite = np.isfinite(keys).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{where}: row {int(np.argmin(finite))} has a key that is not finite; remove its file and embed again"
        )
    return keys.astype(np.float32) if info.normalized else unit(keys)
