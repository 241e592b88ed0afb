"""Precomputed embeddings, as LAION and clip-retrieval publish them.

`img_emb/img_emb_0000.npy`, `text_emb/text_emb_0000.npy` and `metadata/metadata_0000.parquet` belong together, row by
row; all three may also be in one folder, and `source.metadata` may name the folder of the tables. The rows of the
arrays are written to our columns unchanged; there are no images.
"""

import contextlib
import io
import itertools
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from configs.base import Embed, Source
from pipelines import schemas, storage
from pipelines.errors import UserError
from pipelines.sources import patterns
from pipelines.sources.files import parquet
from pipelines.sources.files.parquet import BrokenParquet
from pipelines.sources.sample import Filtered, InputShard, Reject, Sample, field_names, rename, to_sample
from pipelines.sources.stream import BrokenStream, Stream

IMAGES = "img_emb"
COLUMNS = {"key": (IMAGES,), "value_image": (), "value_text": ("text_emb",)}
FIELDS = {
    "caption": ("caption", "TEXT", "text"),
    "label": ("label",),
    "url": ("url", "URL"),
}
_TABLES = "metadata"
_BLOCK_ROWS = 256
_MAX_HEADER_BYTES = 4096
_MAX_DIM = 1 << 16
_BROKEN_HEADER = (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError, tokenize.TokenError)


def _read_header(stream: Stream) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns shape, Fortran order and type of an .npy file, in version 1.0 or 2.0 of the format."""
    start = stream.read_exactly(8)
    first = start[6:7] == b"\1"
    length = stream.read_exactly(2 if first else 4)
    size = int.from_bytes(length, "little")
    if start[:6] != b"\x93NUMPY" or size > _MAX_HEADER_BYTES:
        raise BrokenStream("is no .npy file")
    header = io.BytesIO(length + stream.read_exactly(size))
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    try:
        return read(header)
    except _BROKEN_HEADER as error:
        raise BrokenStream(f"its header cannot be read: {error}") from error


class _Array:
    """The rows of an .npy file, read block by block.

    Attributes:
        rows: number that the header states.
        dim: width of a row.
    """

    def __init__(self, stream: Stream) -> None:
        """Reads the header; a `BrokenStream` if it is not of rows of float16 or float32, in C order."""
        self._stream = stream
        shape, fortran, self._dtype = _read_header(stream)
        if len(shape) != 2 or fortran or self._dtype not in (np.float16, np.float32):
            raise BrokenStream(f"holds {self._dtype} of shape {shape}, must be rows of float16 or float32")
        self.rows, self.dim = shape
        if self.rows < 0 or not 0 < self.dim <= _MAX_DIM:
            raise BrokenStream(f"holds rows of {self.dim:,} numbers, must be 1 to {_MAX_DIM:,}")

    def read(self, rows: int) -> np.ndarray:
        """Returns the next rows `[rows, dim]`, fewer where the file ends early."""
        size = self.dim * self._dtype.itemsize
        try:
            data = self._stream.read(rows * size)
        except BrokenStream:
            data = b""
        return np.frombuffer(data[: len(data) // size * size], self._dtype).reshape(-1, self.dim)


def _name(uri: str, kind: str, suffix: str) -> str:
    """Returns the file name of another kind: `img_emb_0000.npy` gives `metadata_0000.parquet`."""
    return storage.name(uri).replace(IMAGES, kind).removesuffix(".npy") + suffix


def _candidates(uri: str, kind: str, suffix: str, folder: str = "") -> list[str]:
    """Returns where the file of another kind may be: in `folder` or, without one, beside this file or its folder."""
    if IMAGES not in storage.name(uri):
        return []
    name = _name(uri, kind, suffix)
    if folder:
        return [storage.join(folder, name)]
    here = uri.removesuffix(storage.name(uri))
    parent = storage.name(here)
    above = here.rstrip("/").removesuffix(parent)
    own = [f"{above}{parent.replace(IMAGES, kind)}/{name}"] if IMAGES in parent else []
    return [f"{here}{name}", *own]


def siblings(source: Source, file: storage.Found) -> list[str]:
    """Returns where the files that belong to a file of image embeddings may be."""
    kinds = [kind for kinds in _columns(source).values() for kind in kinds if kind != IMAGES]
    arrays = [uri for kind in kinds for uri in _candidates(file.uri, kind, ".npy")]
    return [*arrays, *_candidates(file.uri, _TABLES, ".parquet", source.metadata)]


def _columns(source: Source) -> dict[str, tuple[str, ...]]:
    names = field_names(source, {**COLUMNS, **FIELDS})
    return {ours: names[ours] for ours in COLUMNS}


def _arrays(source: Source, uri: str, beside: tuple[str, ...]) -> dict[str, str]:
    """Returns the .npy file of each column; files that are only a default may be missing."""
    found = {}
    chosen = {entry.partition("=")[0] for entry in source.fields}
    for ours, kinds in _columns(source).items():
        for kind in kinds:
            files = (
                [uri] if kind == IMAGES else [file for file in beside if storage.name(file) == _name(uri, kind, ".npy")]
            )
            if files:
                found[ours] = files[0]
            elif ours in chosen:
                raise UserError(f"{uri}: there is no {_name(uri, kind, '.npy')} for {ours}={kind}")
    return found


def dims(source: Source) -> dict[str, int]:
    """Returns the width of each column that the source fills, from the header of its first file and its siblings.

    Args:
        source: with whole paths, as `sources.resolve` returns it.

    Raises:
        UserError: if there is no file, or it is not an array of float16 or float32.
    """
    files = patterns.files(source.path)
    beside = tuple(uri for uri in siblings(source, files[0]) if storage.found(uri))
    widths = {}
    for ours, uri in _arrays(source, files[0].uri, beside).items():
        try:
            with Stream(uri) as stream:
                widths[ours] = _Array(stream).dim
        except BrokenStream as error:
            raise UserError(f"{uri}: {error}") from error
    return widths


def read(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject | Filtered]:
    """Yields the rows of a file of image embeddings, joined with its siblings; members are their numbers, from 0.

    Raises:
        UserError: if a file that `fields` names does not exist, or the store fails.
    """
    files = _arrays(shard.source, shard.uri, shard.siblings)
    table = next((uri for uri in shard.siblings if uri.endswith(".parquet")), None)
    if table is None and any(entry.partition("=")[0] in FIELDS for entry in shard.source.fields):
        raise UserError(f"{shard.uri}: there is no {_name(shard.uri, _TABLES, '.parquet')} with the fields named")
    try:
        with contextlib.ExitStack() as stack:
            arrays = {ours: _Array(stack.enter_context(Stream(uri))) for ours, uri in files.items()}
            counts = {storage.name(files[ours]): array.rows for ours, array in arrays.items()}
            texts: Iterator[dict[str, Any] | ValueError] = itertools.repeat({})
            if table:
                opened = stack.enter_context(parquet.open_table(table))
                counts[storage.name(table)] = sum(opened.group_rows)
                texts = _texts(opened, table, shard.source)
            if len(set(counts.values())) > 1:
                said = ", ".join(f"{name} has {count:,} rows" for name, count in counts.items())
                yield Reject("", "read", "RowsDisagree", f"the rows do not belong together: {said}")
                return
            yield from _rows(shard, arrays, texts, next(iter(counts.values())))
    except (BrokenStream, BrokenParquet) as error:
        yield Reject("", "read", "BrokenVectors", str(error))


def _texts(table: parquet.Table, uri: str, source: Source) -> Iterator[dict[str, Any] | ValueError]:
    """Yields the fields of each row, or what is wrong with them."""
    whole = field_names(source, {**COLUMNS, **FIELDS})
    names = {ours: theirs for ours, theirs in whole.items() if ours in FIELDS}
    columns = parquet.readable_columns(table.schema)
    parquet.check_names(source, names, columns, uri)
    parquet.check_single(table.schema, names, uri)
    for group in range(len(table.group_rows)):
        for batch in table.batches(group, columns):
            for row in range(len(batch)):
                try:
                    yield rename(parquet.row_values(batch, row, columns), names)
                except ValueError as error:
                    yield error


def _unusable(blocks: Iterable[np.ndarray]) -> dict[int, str]:
    """Returns what is wrong with the rows of arrays that cannot be used."""
    found: dict[int, str] = {}
    for zero, broken in map(schemas.unusable, blocks):
        found |= dict.fromkeys(zero, "is zero, or so short that its direction is lost")
        found |= dict.fromkeys(broken, "has numbers that are not finite")
    return found


def _rows(
    shard: InputShard, arrays: Mapping[str, _Array], texts: Iterator[dict[str, Any] | ValueError], rows: int
) -> Iterator[Sample | Reject | Filtered]:
    for first in range(0, rows, _BLOCK_ROWS):
        expected = min(_BLOCK_ROWS, rows - first)
        blocks = {ours: array.read(expected) for ours, array in arrays.items()}
        found = min(len(block) for block in blocks.values())
        bad = _unusable([block[:found] for block in blocks.values()])
        for row in range(found):
            member = str(first + row)
            try:
                fields = next(texts)
            except (BrokenParquet, StopIteration) as error:
                message = f"rows {first + row:,} to {rows - 1:,} have no metadata: {error or 'it ends early'}"
                yield Reject(member, "read", "BrokenVectors", message)
                return
            if isinstance(fields, ValueError):
                yield Reject(member, "read", "BadValue", str(fields))
            elif row in bad:
                yield Reject(member, "read", "BadVector", bad[row])
            else:
                yield to_sample(shard, member, b"", fields, {ours: block[row] for ours, block in blocks.items()})
        if found < expected:
            message = f"rows {first + found:,} to {rows - 1:,} are missing: the file ends early"
            yield Reject(str(first + found), "read", "TruncatedVectors", message)
            return
