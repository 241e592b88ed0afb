"""The contracts between the programs: columns, ids, file metadata, and checked reading and writing.

It defines the rows of embeddings, rejects and neighbour lists (docs/contracts.md describes them), and how the shape of
a JSON object is checked. The names below are all that other modules use. `manifest` says which files make up a folder.
"""

from pipelines.schemas.columns import (
    content_keys,
    digests,
    fixed_list,
    thumbnails,
    to_matrix,
    unit_keys,
)
from pipelines.schemas.parquet import (
    ROW_GROUP_ROWS,
    SCHEMA_VERSION,
    count_rows,
    footer_sha256,
    has_column,
    open_parquet,
    read,
    read_ids,
    write,
    writer,
)
from pipelines.schemas.rows import (
    CONCEPT_COUNTS,
    CONCEPT_ROWS,
    DIGEST,
    DTYPES,
    FILTERED,
    KEY_SPACE,
    REJECTS,
    ROW_BITS,
    THUMBNAIL,
    THUMBNAIL_SIDE,
    EncoderInfo,
    classes,
    embeddings,
    make_id,
    neighbors,
    split_ids,
)
from pipelines.schemas.shapes import (
    misshapen,
    read_json,
    shape_of,
)
from pipelines.schemas.vectors import (
    moderate,
    unit,
    unusable,
)

__all__ = [
    "CONCEPT_COUNTS",
    "CONCEPT_ROWS",
    "DIGEST",
    "DTYPES",
    "EncoderInfo",
    "FILTERED",
    "KEY_SPACE",
    "REJECTS",
    "ROW_BITS",
    "ROW_GROUP_ROWS",
    "SCHEMA_VERSION",
    "THUMBNAIL",
    "THUMBNAIL_SIDE",
    "classes",
    "content_keys",
    "count_rows",
    "digests",
    "embeddings",
    "fixed_list",
    "footer_sha256",
    "has_column",
    "make_id",
    "misshapen",
    "moderate",
    "neighbors",
    "open_parquet",
    "read",
    "read_ids",
    "read_json",
    "shape_of",
    "split_ids",
    "thumbnails",
    "to_matrix",
    "unit",
    "unit_keys",
    "unusable",
    "write",
    "writer",
]
