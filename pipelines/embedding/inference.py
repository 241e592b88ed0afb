"""A batch of samples to vectors: filter, decode, encode, and find the guilty where an encoder fails.

What is read, written and done at a time is left to `shard_run`.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from configs.base import Embed
from pipelines.encoders.handles import EncoderSet, EncoderSpec, ImageEncoder, TextEncoder, finish
from pipelines.errors import UserError
from pipelines.filtering.opt_out import OptOut
from pipelines.filtering.row_filters import RowFilters
from pipelines.images.decode import DecodeError, ImagePreprocess, decode, prepare
from pipelines.sources import Filtered, InputShard, Reject, Sample
from pipelines.sources.sample import stated_digest


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """One input shard and where its vectors go.

    Attributes:
        shard: what is read.
        folder: where its files are written.
        config_hash: of the folder.
        run_id: of the command.
        encoders: of each vector column.
        is_memory: whether the filters are meant for it.
        attempt: 1, or more if its rejects are tried again.
    """

    shard: InputShard
    folder: str
    config_hash: str
    run_id: str
    encoders: dict[str, EncoderSpec]
    is_memory: bool = False
    attempt: int = 1

    @property
    def metadata(self) -> dict[str, str]:
        """What every Parquet file of the folder says of its origin."""
        infos = {column: dataclasses.asdict(spec.info) for column, spec in self.encoders.items()}
        origin = {f"{column}.{name}": str(value) for column, info in infos.items() for name, value in info.items()}
        return {"config_hash": self.config_hash, **origin}


@dataclasses.dataclass(frozen=True)
class Tools:
    """What is loaded once a process and shared by its threads."""

    encoders: EncoderSet
    filters: RowFilters
    opt_out: OptOut | None


# Rows of the shards that are under way in this process; the launcher's progress reads it where it shares the process.
in_flight: collections.Counter[str] = collections.Counter()

Outcome = Reject | Filtered


@dataclasses.dataclass(frozen=True)
class Item:
    """A wanted sample at its place in the shard; once decoded, with what its image encoders take."""

    place: int
    sample: Sample
    content_key: bytes = b""
    width: int | None = None
    height: int | None = None
    images: dict[ImagePreprocess, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Batch:
    """What became of the samples of one batch: rows with their vectors, and the others with their places."""

    rows: list[Item]
    vectors: dict[str, np.ndarray]
    others: list[tuple[int, Outcome]]


class BatchEmbedder:
    """Takes batches of one job from bytes to vectors; its threads share it."""

    def __init__(self, job: ShardJob, tools: Tools, embed: Embed) -> None:
        """Sorts the encoders by what they take."""
        self._job, self._tools, self._embed = job, tools, embed
        self._columns: dict[ImageEncoder | TextEncoder, list[str]] = collections.defaultdict(list)
        for column in job.encoders:
            if column in tools.encoders.columns:
                self._columns[tools.encoders.columns[column]].append(column)
        self._preprocesses = {e.preprocess for e in self._columns if isinstance(e, ImageEncoder)}

    def unwanted(self, sample: Sample) -> Outcome | None:
        """Returns why a sample is left out, by what is known before its image is decoded."""
        job = self._job
        if job.is_memory and (filtered := self._tools.filters.unwanted(sample)):
            return filtered
        for column, spec in job.encoders.items():
            if column in sample.vectors:
                continue
            if spec.kind == "precomputed":
                return Reject(sample.member, "read", "MissingVector", f"the source has no {column} for it")
            if spec.kind == "text" and not sample.caption:
                return Reject(sample.member, "read", "EmptyCaption", "there is no text to encode")
            if spec.kind == "image" and sample.vectors and not sample.image:
                return Reject(
                    sample.member, "read", "MissingImage", f"the source has vectors, and no image for {column}"
                )
        return None

    def _decode(self, item: Item) -> Item | Outcome:
        sample, is_memory = item.sample, self._job.is_memory
        is_brought = bool(sample.vectors) and not sample.image
        stated = stated_digest(sample.metadata)
        own = _digest_of_vectors(sample) if is_brought else hashlib.sha256(sample.image).digest()
        content_key = stated if is_brought and stated else own
        opt_out = self._tools.opt_out if is_memory else None
        if opt_out and (opt_out.names(sample.url, content_key) or opt_out.names(None, stated or content_key)):
            return Filtered(sample.member, "opt_out", sample.url or content_key.hex())
        if is_brought:
            known = [sample.metadata.get(name) for name in ("original_width", "original_height")]
            width, height = (value if isinstance(value, int) else None for value in known)
            return dataclasses.replace(item, content_key=content_key, width=width, height=height)
        try:
            picture = decode(sample.image, self._embed.max_image_pixels, self._preprocesses)
        except DecodeError as error:
            return Reject(sample.member, "decode", error.reason, str(error))
        width, height = picture.width, picture.height
        if is_memory and (wrong := self._tools.filters.wrong_size(sample.member, width, height)):
            return wrong
        images = {preprocess: prepare(picture, preprocess) for preprocess in self._preprocesses}
        return dataclasses.replace(item, content_key=content_key, width=width, height=height, images=images)

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Decodes and encodes the samples of one batch."""
        results = [(item.place, self._decode(item)) for item in items]
        others = [(place, result) for place, result in results if not isinstance(result, Item)]
        rows = [result for _, result in results if isinstance(result, Item)]
        if not rows:
            return Batch([], {}, others)
        vectors, guilty = self._encode(rows)
        finite = np.logical_and.reduce([np.isfinite(matrix).all(-1) for matrix in vectors.values()])
        for place, row in enumerate(rows):
            if place in guilty:
                others.append((row.place, Reject(row.sample.member, "encode", *guilty[place])))
            elif not finite[place]:
                message = "an encoder gave a vector that is not finite"
                others.append((row.place, Reject(row.sample.member, "encode", "NotFinite", message)))
        good = finite & ~np.isin(np.arange(len(rows)), list(guilty))
        kept = [row for row, is_good in zip(rows, good, strict=True) if is_good]
        return Batch(kept, {column: matrix[good] for column, matrix in vectors.items()}, others)

    def _encode(self, rows: Sequence[Item]) -> tuple[dict[str, np.ndarray], dict[int, tuple[str, str]]]:
        """Returns the vectors of each column, and by place in the batch the error of rows that an encoder fails on."""
        vectors: dict[str, np.ndarray] = {}
        guilty: dict[int, tuple[str, str]] = {}
        for column, spec in self._job.encoders.items():
            if column in rows[0].sample.vectors:
                brought = np.stack([row.sample.vectors[column] for row in rows])
                vectors[column] = finish(brought, spec)
        for encoder, columns in self._columns.items():
            wanted = [column for column in columns if column not in vectors]
            if not wanted:
                continue
            inputs: list[Any] = (
                [row.images[encoder.preprocess] for row in rows]
                if isinstance(encoder, ImageEncoder)
                else [row.sample.caption for row in rows]
            )
            matrix = encode_or_bisect(encoder, inputs, self._embed.batch_size, guilty)
            vectors |= dict.fromkeys(wanted, matrix)
        return vectors, guilty


def _digest_of_vectors(sample: Sample) -> bytes:
    return hashlib.sha256(b"".join(sample.vectors[name].tobytes() for name in sorted(sample.vectors))).digest()


def encode_or_bisect(
    encoder: ImageEncoder | TextEncoder, inputs: Sequence[Any], batch_size: int, guilty: dict[int, tuple[str, str]]
) -> np.ndarray:
    """Encodes a batch; where the encoder fails, halves it down to the inputs that it fails on.

    The others keep their places in the batch, and so their bits: those that are not asked for are blanked.

    Args:
        encoder: called with inputs, of which None is blank.
        inputs: at most `batch_size`.
        batch_size: of the encoder.
        guilty: takes the place of each input that fails, with type and text of the error.

    Returns:
        Vectors `[n, dim]` float32; those of the guilty are zero.

    Raises:
        UserError: if the encoder fails on every input of several: then it is not their fault.
    """
    try:
        return encoder.encode(inputs, batch_size)
    except UserError:
        raise
    except Exception as error:
        # What a graph raises is up to its operations.
        whole = f"{type(error).__name__}: {error}"
    found: dict[int, np.ndarray] = {}
    failed: dict[int, tuple[str, str]] = {}
    spans = [(0, len(inputs))]
    while spans:
        begin, end = spans.pop()
        try:
            part = encoder.encode([x if begin <= i < end else None for i, x in enumerate(inputs)], batch_size)
            found |= {place: part[place] for place in range(begin, end)}
        except UserError:
            raise
        except Exception as error:
            if end - begin > 1:
                spans += [(begin, (begin + end) // 2), ((begin + end) // 2, end)]
            else:
                failed[begin] = type(error).__name__, str(error)[:500]
    if not found and len(inputs) > 1:
        raise UserError(f"an encoder fails on every one of {len(inputs)} inputs ({whole[:500]})")
    guilty |= failed
    width = len(next(iter(found.values()))) if found else 0
    zero = np.zeros(width, np.float32)
    return np.stack([found.get(place, zero) for place in range(len(inputs))])
