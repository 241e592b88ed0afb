"""Which rows of a list are read: its first classes, and a part of each class.

Published protocols without a validation split hold one out from the training list: two sources read the same list in
adjacent parts. Each class is split separately, so both have all classes in the same proportions.
"""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from configs.base import Source
from pipelines.errors import UserError
from pipelines.sources.listing import Row

# Stands for the label of a row that becomes a reject, which every part shows.
_REJECTED = -1


def chosen(source: Source, rows: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """Yields the rows of a source that its `classes` and `part` choose, in their order.

    Of the n rows of a class, shuffled by a hash of `part_seed` and path, a part (a, b) has rows round(a n) up to, but
    not including, round(b n): adjacent parts share no row and omit none.

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
    labels, first, sizes = np.unique(known["label"][order], return_index=True, return_counts=True)
    of_class = np.searchsorted(labels, known["label"][order])
    rank = np.arange(len(known)) - first[of_class]
    begin, end = (np.floor(share * sizes + 0.5).astype(np.int64) for share in source.part)
    taken = np.zeros(len(known), bool)
    taken[order] = (rank >= begin[of_class]) & (rank < end[of_class])
    return taken | (known["label"] == _REJECTED)


def _label(source: Source, row: Row) -> int:
    label = row.fields.get("label")
    if row.problem or not isinstance(label, int | None):
        return _REJECTED
    if label is None:
        raise UserError(f"{source.path}: {row.member} has no label; 'classes' and 'part' choose by labels")
    return label


def _hash(seed: int, member: str) -> int:
    digest = hashlib.sha256(f"{seed}\t{member}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
