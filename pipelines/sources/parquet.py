"""Parquet files with the image bytes in a column: img2dataset's `parquet` output, and the tables beside its tars."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.base import Embed
from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources.sample import Filtered, InputShard, Reject, Sample, field_names, to_sample

FIELDS = {
    "image": ("jpg", "png", "webp", "image"),
    "caption": ("caption", "txt", "text"),
    "label": ("label",),
    "url": ("url",),
    "key": ("key",),
}
_BATCH_ROWS = 64
_MAX_SIBLING_BYTES = 1 << 30


def find(names: tuple[str, ...], columns: list[str]) -> str | None:
    """Returns the first of the names that is a column."""
    return next((name for name in names if name in columns), None)


def read_sibling(uri: str) -> dict[str, dict[str, Any]]:
    """Returns the rows of an img2dataset table by their key.

    Raises:
        UserError: if it is no whole Parquet file, has no keys, or would not fit into memory.
    """
    with storage.open_read(uri) as file:
        try:
            parquet = pq.ParquetFile(file)
            size = sum(parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups))
            if size > _MAX_SIBLING_BYTES:
                raise UserError(f"{uri}: has {size:,} bytes of metadata, the limit is {_MAX_SIBLING_BYTES:,}")
            table = parquet.read()
        except storage.BROKEN_PARQUET as error:
            raise UserError(f"{uri}: is not a whole Parquet file ({error}); remove it or mend it") from error
    if "key" not in table.column_names:
        raise UserError(f"{uri}: has no column 'key' to join it with its tar; remove it or mend it")
    return {str(row["key"]): row for row in table.to_pylist()}
