"""The image-text pairs of an embedded memory, and which of them train, choose and measure.

Pairs are ordered by a hash of the image's bytes and the seed, so that a pair's part does not depend on the other pairs'
vectors, shards or order.
"""

import dataclasses
import hashlib

import numpy as np

from configs.base import Align
from pipelines import schemas
from pipelines.errors import UserError
from pipelines.manifest import Embeddings

_ROWS = ["content_key", "caption"]
_LEAST_TRAINED = 2


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Some pairs.

    Attributes:
        content_keys: SHA-256 of the images, bytes `S32` `[n]`, distinct.
        images: frozen vectors of the images, float32 `[n, image width]`.
        texts: frozen vectors of the captions, float32 `[n, text width]`.
        captions: a number for each caption, int64 `[n]`; equal captions have equal numbers.
    """

    content_keys: np.ndarray
    images: np.ndarray
    texts: np.ndarray
    captions: np.ndarray

    def take(self, rows: slice) -> "Pairs":
        """Returns some of the pairs."""
        return Pairs(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.content_keys)


@dataclasses.dataclass(frozen=True)
class Parts:
    """Disjoint pairs: `train` teaches, `val` chooses the step, `held_out` measures; no image is in two of them."""

    train: Pairs
    val: Pairs
    held_out: Pairs


def read(memory: Embeddings, align: Align, seed: int) -> Parts:
    """Reads the pairs of a memory that have a text; of equal images the first.

    Args:
        memory: with the columns `key` and `value_text`.
        align: sizes of the parts, and the most pairs.
        seed: that shuffles them.

    Raises:
        UserError: if too few pairs have a text.
    """
    wanted = _chosen(memory, align.most_pairs, seed)
    kept = align.held_out + align.val
    if len(wanted) < kept + _LEAST_TRAINED:
        raise UserError(
            f"--config.align.held_out={align.held_out}: {memory.folder} has {len(wanted):,} different images with a "
            f"text, and held_out and val take {kept:,}; lower them, or name a larger --config.memory.path"
        )
    pairs = _vectors(memory, wanted)
    return Parts(
        pairs.take(slice(kept, None)),
        pairs.take(slice(align.held_out, kept)),
        pairs.take(slice(0, align.held_out)),
    )


def _chosen(memory: Embeddings, most: int, seed: int) -> dict[bytes, int]:
    """Returns the content keys of the first pairs in the order of their hashes, each with its place in it."""
    found: set[tuple[bytes, bytes]] = set()
    for shard in memory.shard_rows:
        for row in memory.read(shard, _ROWS).to_pylist():
            if (row["caption"] or "").strip():
                found.add((hashlib.sha256(b"%d" % seed + row["content_key"]).digest(), row["content_key"]))
        if len(found) > most:
            found = set(sorted(found)[:most])
    return {key: place for place, (_, key) in enumerate(sorted(found))}


def _vectors(memory: Embeddings, wanted: dict[bytes, int]) -> Pairs:
    """Returns the pairs in the order of their places."""
    widths = memory.encoder("key").dim, memory.encoder("value_text").dim
    images, texts = (np.zeros((len(wanted), width), np.float32) for width in widths)
    captions = np.full(len(wanted), -1, np.int64)
    seen: dict[bytes, int] = {}
    for shard in memory.shard_rows:
        table = memory.read(shard, [*_ROWS, "key", "value_text"])
        places, rows = [], []
        for row, (key, caption) in enumerate(zip(*(table[name].to_pylist() for name in _ROWS), strict=True)):
            place = wanted.get(key, -1)
            if place >= 0 and captions[place] < 0 and (caption or "").strip():
                captions[place] = seen.setdefault(hashlib.sha256(caption.encode()).digest(), len(seen))
                places.append(place)
                rows.append(row)
        images[places] = schemas.to_matrix(table["key"])[rows]
        texts[places] = schemas.to_matrix(table["value_text"])[rows]
    return Pairs(np.array([*wanted], "S32"), images, texts, captions)
