"""Precomputed embeddings: as LAION and clip-retrieval publish them, `.npy` with labels, and `.npz`.

`img_emb/img_emb_0000.npy`, `text_emb/text_emb_0000.npy` and `metadata/metadata_0000.parquet` belong together, row by
row; all three may also be in one folder, and `source.metadata` may name the folder of the tables. Beside `X.npy` there
may be `y.npy` with the labels, and an `.npz` has its arrays by name (`layouts`). The rows of the arrays are written to
our columns unchanged, but for float64; there are no images.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from configs.base import Embed, Source
from pipelines import schemas, storage
from pipelines.errors import UserError
from pipelines.sources import patterns
from pipelines.sources.files import arrays, layouts, parquet
from pipelines.sources.files.layouts import COLUMNS, FIELDS, Layout
from pipelines.sources.files.parquet import BrokenParquet
from pipelines.sources.sample import (
    Filtered,
    InputShard,
    Reject,
    Sample,
    count_passed_over,
    field_names,
    rename,
    to_sample,
)
from pipelines.sources.stream import BrokenStream

INSIDE = ("img_emb/*.npy", "*.npz")
"""Files of a folder that is the path: clip-retrieval's, or DataComp's features."""

_BLOCK_ROWS = 256


def siblings(source: Source, file: storage.Found) -> list[str]:
    """Returns where the files that belong to a file of embeddings may be."""
    return layouts.siblings(source, file.uri)


def dims(source: Source) -> dict[str, int]:
    """Returns the width of each column that the source fills, from the header of its first file and its siblings.

    Args:
        source: with whole paths, as `sources.resolve` returns it.

    Raises:
        UserError: if there is no file, or it is not an array of floats.
    """
    uri = patterns.files(source.path, INSIDE)[0].uri
    beside = tuple(uri for uri in layouts.siblings(source, uri) if storage.found(uri))
    with contextlib.ExitStack() as stack:
        try:
            layout = layouts.find(source, uri, beside, stack)
            return {ours: arrays.Rows(layout.open(place)).dim for ours, place in layout.columns.items()}
        except BrokenStream as error:
            raise UserError(f"{uri}: {error}") from error


def read(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject | Filtered]:
    """Yields the rows of a file of embeddings, joined with its siblings; members are their numbers, from 0.

    Raises:
        UserError: if a file or an array that `fields` names does not exist, or the store fails.
    """
    try:
        with contextlib.ExitStack() as stack:
            layout = layouts.find(shard.source, shard.uri, shard.siblings, stack)
            blocks = {ours: arrays.Rows(layout.open(place)) for ours, place in layout.columns.items()}
            counts = {str(layout.columns[ours]): block.rows for ours, block in blocks.items()}
            labels = arrays.Labels(layout.open(layout.labels)) if layout.labels else None
            if labels:
                counts[str(layout.labels)] = labels.rows
            texts: Iterator[dict[str, Any] | ValueError] = itertools.repeat({})
            if layout.table:
                opened = stack.enter_context(parquet.open_table(layout.table))
                counts[storage.name(layout.table)] = sum(opened.group_rows)
                texts = _texts(opened, layout, shard.source)
            if len(set(counts.values())) > 1:
                said = ", ".join(f"{name} has {count:,} rows" for name, count in counts.items())
                yield Reject("", "read", "RowsDisagree", f"the rows do not belong together: {said}")
                return
            for name in layout.others:
                count_passed_over(shard.others, f"{name}.npy")
            yield from _rows(shard, blocks, labels, texts, next(iter(counts.values())))
    except (BrokenStream, BrokenParquet) as error:
        yield Reject("", "read", "BrokenVectors", str(error))


def _texts(table: parquet.Table, layout: Layout, source: Source) -> Iterator[dict[str, Any] | ValueError]:
    """Yields the fields of each row, or what is wrong with them."""
    whole, uri = field_names(source, {**COLUMNS, **FIELDS}), layout.table
    # A label that is an array is no column.
    names = {ours: whole[ours] for ours in FIELDS if not (ours == "label" and layout.labels)}
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
    shard: InputShard,
    columns: Mapping[str, arrays.Rows],
    labels: arrays.Labels | None,
    texts: Iterator[dict[str, Any] | ValueError],
    rows: int,
) -> Iterator[Sample | Reject | Filtered]:
    for first in range(0, rows, _BLOCK_ROWS):
        expected = min(_BLOCK_ROWS, rows - first)
        blocks = {ours: column.read(expected) for ours, column in columns.items()}
        known = labels.read(expected) if labels else None
        found = min(expected if known is None else len(known), *map(len, blocks.values()))
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
                fields = fields if known is None else {**fields, "label": known[row]}
                yield to_sample(shard, member, b"", fields, {ours: block[row] for ours, block in blocks.items()})
        if found < expected:
            message = f"rows {first + found:,} to {rows - 1:,} are missing: the file ends early"
            yield Reject(str(first + found), "read", "TruncatedVectors", message)
            return
