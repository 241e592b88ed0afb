"""An embedded folder in the layout of clip-retrieval.

`img_emb/img_emb_0000.npy`, `text_emb/text_emb_0000.npy` and `metadata/metadata_0000.parquet` belong together, row by
row; 0000 is the number of the shard. autofaiss and embedding-reader read each of these folders, and a source of the
format `vectors` all three.
"""

import dataclasses

import pyarrow as pa

from pipelines import schemas, storage
from pipelines.manifest import Embeddings
from workflow.exchange.output import Output

# Our columns, and what the published tables call them.
METADATA = {
    "id": "id",
    "member": "image_path",
    "source_shard": "source_shard",
    "caption": "caption",
    "url": "url",
    "label": "label",
    "width": "width",
    "height": "height",
    "content_key": "sha256",
    "metadata": "metadata",
}
_KEY = "key"
_DIGITS = 4


def array_name(column: str) -> str:
    """Returns the folder of a vector column: `key` is in `img_emb`, `value_text` in `text_emb`."""
    return "img_emb" if column == _KEY else f"{column.removeprefix('value_')}_emb"


def write(folder: str, embeddings: Embeddings) -> int:
    """Writes the rows that were not dropped, shard by shard, and returns their number.

    One column of one shard is held in memory at a time. A shard without rows has no files.

    Args:
        folder: to write; finished shards are kept.
        embeddings: to read.

    Raises:
        UserError: if the folder holds something else, or a file of the embeddings is damaged.
    """
    encoders = {column: dataclasses.asdict(info) for column, info in embeddings.encoders.items()}
    output = Output(folder, {"snapshot": embeddings.snapshot, "encoders": encoders})
    shards = embeddings.shard_rows
    digits = max(_DIGITS, len(str(max(shards, default=0))))
    for number, rows in shards.items():
        name = f"{number:0{digits}d}"
        if rows and not output.has(name):
            output.done(name, rows, _write_shard(output, embeddings, number, name))
    return output.finish()


def _write_shard(output: Output, embeddings: Embeddings, number: int, name: str) -> list[str]:
    """Writes the files of a shard and returns their paths below the folder."""
    rows, files = embeddings.shard_rows[number], []
    for column, info in embeddings.encoders.items():
        kind = array_name(column)
        files.append(f"{kind}/{kind}_{name}.npy")
        vectors = schemas.to_matrix(embeddings.read(number, [column])[column])
        output.write_npy(files[-1], info.dtype, (rows, info.dim), [vectors])
    files.append(f"metadata/metadata_{name}.parquet")
    schemas.write(storage.join(output.folder, files[-1]), _metadata(embeddings, number), {})
    return files


def _metadata(embeddings: Embeddings, number: int) -> pa.Table:
    table = embeddings.read(number, list(METADATA))
    digests = pa.array([key.hex() for key in table["content_key"].to_pylist()], pa.string())
    place = table.schema.get_field_index("content_key")
    return table.set_column(place, "content_key", digests).select(list(METADATA)).rename_columns(METADATA)
