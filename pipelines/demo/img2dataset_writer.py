"""Writes image-text pairs to disk as img2dataset 1.47 does in its `webdataset` format.

Owns the layout: keys, the order and attributes of tar members, the fields of the metadata in their order, the Parquet
table beside each tar and the statistics. Equal pairs give equal bytes: times are zero. The caller makes the pairs and
spreads them over shards.
"""

import dataclasses
import hashlib
import io
import json
import math
import pathlib
import tarfile
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_SHARD_DIGITS = 5
_ROW_GROUP_ROWS = 100

SCHEMA = pa.schema(
    [
        ("license", pa.string()),
        ("caption", pa.string()),
        ("url", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("exif", pa.string()),
        ("sha256", pa.string()),
    ]
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image with its caption.

    Attributes:
        image: JPEG bytes.
        width: pixels.
        height: pixels.
        caption: the alternative text.
        url: where the image comes from; unique.
        license: SPDX identifier, in the place where `--save_additional_columns '["license"]'` puts it.
    """

    image: bytes
    width: int
    height: int
    caption: str
    url: str
    license: str


def write_shard(folder: pathlib.Path, shard: int, pairs: Sequence[Pair], pairs_per_shard: int) -> None:
    """Writes `{shard:05d}.tar`, `.parquet` and `_stats.json`.

    Args:
        folder: an existing folder.
        shard: number of the shard, from 0.
        pairs: at most `pairs_per_shard`.
        pairs_per_shard: size of a full shard; decides the number of digits of a key.

    Raises:
        ValueError: if there are more pairs than a shard holds.
    """
    if len(pairs) > pairs_per_shard:
        raise ValueError(f"{len(pairs)} pairs in a shard of {pairs_per_shard}")
    rows = []
    name = f"{shard:0{_SHARD_DIGITS}d}"
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for row, pair in enumerate(pairs):
            metadata = _metadata(pair, _key(shard, row, pairs_per_shard))
            _add(tar, f"{metadata['key']}.jpg", pair.image)
            _add(tar, f"{metadata['key']}.json", json.dumps(metadata, indent=4).encode())
            _add(tar, f"{metadata['key']}.txt", pair.caption.encode())
            rows.append(metadata)
    pq.write_table(
        pa.Table.from_pylist(rows, SCHEMA),
        folder / f"{name}.parquet",
        row_group_size=_ROW_GROUP_ROWS,
        compression="snappy",
        version="2.6",
    )
    stats = {
        "count": len(pairs),
        "successes": len(pairs),
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "duration": 0.0,
        "start_time": 0.0,
        "end_time": 0.0,
        "status_dict": {"success": len(pairs)},
    }
    (folder / f"{name}_stats.json").write_text(json.dumps(stats, indent=4))


def _key(shard: int, row: int, pairs_per_shard: int) -> str:
    row_digits = math.ceil(math.log10(pairs_per_shard))
    return f"{10**row_digits * shard + row:0{_SHARD_DIGITS + row_digits}d}"


def _metadata(pair: Pair, key: str) -> dict[str, Any]:
    return {
        "license": pair.license,
        "caption": pair.caption,
        "url": pair.url,
        "key": key,
        "status": "success",
        "error_message": None,
        "width": pair.width,
        "height": pair.height,
        "original_width": pair.width,
        "original_height": pair.height,
        "exif": "{}",
        "sha256": hashlib.sha256(pair.image).hexdigest(),
    }


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o444
    member.uname = member.gname = "bigdata"
    tar.addfile(member, io.BytesIO(data))
