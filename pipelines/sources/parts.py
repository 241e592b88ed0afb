"""Which rows of a source are read: of a list those with a value in a column, its first classes, a part of each class.

Of files of samples a part is drawn row by row, since the classes of all rows are not known before they are read.

Published protocols without a validation split hold one out from the training list: two sources read the same list in
adjacent parts. Each class is split separately, so both have all classes in the same proportions.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from configs.base import Source
from pipelines.errors import UserError
from pipelines.sources.listing import Row

# Stands for the label of a row that becomes a reject, which every part shows.
_REJECTED = -1
_SHOWN = 5


def having(source: Source, rows: Iterator[Row]) -> Iterator[Row]:
    """Yields the rows that have the values that a source's `where` asks for, and those that cannot be used.

    Values are compared as texts; booleans are `true` and `false`. A column alone asks for any value but none. One that
    is a field of ours is named as the table has it, or as we do.

    Raises:
        UserError: if no row has them all.
    """
    if not source.where:
        yield from rows
        return
    wanted, ours = [], {theirs: name for name, _, theirs in (field.partition("=") for field in source.fields)}
    for entry in source.where:
        column, _, values = entry.partition("=")
        name = ours.get(column.strip(), column.strip())
        wanted.append((name, {value.strip() for value in values.split("|")} if values else set()))
    seen: Counter[str] = Counter()
    found = False
    for row in rows:
        texts = {column: _text(row.fields.get(column)) for column, _ in wanted}
        has = not row.problem and all(texts[name] in values if values else texts[name] for name, values in wanted)
        found |= has
        if not has and not found and not row.problem and len(seen) < _SHOWN:
            seen[", ".join(f"{column}={text}" for column, text in texts.items())] += 1
        if has or row.problem:
            yield row
    if seen and not found:
        raise UserError(
            f"{source.path}: no row has {' and '.join(source.where)}, as the source's 'where' asks; the first rows "
            f"have {'; '.join(seen)}"
        )


def _text(value: Any) -> str:
    """Returns a value as a person writes it; a column that a row lacks, or null, is empty."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value).strip()


def chosen(source: Source, rows: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """Yields the rows of a source that its `classes` and `part` choose, in their order.

    Of the n images of a class, shuffled by a hash of `part_seed` and path, a part (a, b) has those from round(a n) up
    to, but not including, round(b n), with all their rows: adjacent parts share no row and omit none.

    Args:
        source: with whole paths.
        rows: yields all rows at each call; for a part it is called twice, and 16 bytes a row are kept.

    Raises:
        UserError: if a row has no label.
    """
    if not source.classes and not source.part:
        yield from rows()
        return
    taken = _places(source, rows) if source.part else None
    for place, row in enumerate(rows()):
        if (not source.classes or _label(source, row) < source.classes) and (taken is None or taken[place]):
            yield row


def _places(source: Source, rows: Callable[[], Iterator[Row]]) -> np.ndarray:
    """Returns for each row whether the part has it, bool `[n]`."""
    known = np.fromiter(
        ((_label(source, row), _hash(source.part_seed, row.member)) for row in rows()),
        dtype=[("label", np.int64), ("hash", np.uint64)],
    )
    order = np.lexsort((known["hash"], known["label"]))
    ranked = known[order]
    labels, first = np.unique(ranked["label"], return_index=True)
    of_class = np.searchsorted(labels, ranked["label"])
    # Rows of one image stay together.
    is_new = np.append(True, ranked[1:] != ranked[:-1])[: len(known)]
    number = np.cumsum(is_new) - 1
    rank, sizes = number - number[first][of_class], np.bincount(of_class, is_new, len(labels))
    begin, end = (np.floor(share * sizes + 0.5).astype(np.int64) for share in source.part)
    taken = np.zeros(len(known), bool)
    taken[order] = (rank >= begin[of_class]) & (rank < end[of_class])
    return taken | (known["label"] == _REJECTED)


def _label(source: Source, row: Row) -> int:
    label = row.fields.get("label")
    if row.problem or not isinstance(label, int | None):
        return _REJECTED
    if label is None:
        raise UserError(
            f"{source.path}: {row.member} has no label; 'classes' and 'part' choose by labels: leave such "
            "rows out with where=label"
        )
    return label


def drawn(source: Source, shard: str, member: str) -> bool:
    """Tells whether a row of files of samples is of a source's part: by a hash of `part_seed` and its names.

    Parts that share an end share no row and leave none out; each has about its share of every class.

    Args:
        source: of the row.
        shard: name of its file.
        member: its own name in the file.
    """
    if not source.part:
        return True
    begin, end = (int(share * (1 << 64)) for share in source.part)
    return begin <= _hash(source.part_seed, f"{shard}/{member}") < end


def _hash(seed: int, member: str) -> int:
    digest = hashlib.sha256(f"{seed}\t{member}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
