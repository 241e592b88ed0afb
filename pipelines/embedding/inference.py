"""A batch of samples to vectors: filter, decode, encode images.

Texts are up to `texts`, reading, writing and the order of the work to `shard_run`, batches that an encoder fails on to
`bisection`.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configs.base import Embed
from pipelines import schemas
from pipelines.embedding import bisection
from pipelines.embedding.bisection import Failure
from pipelines.encoders.handles import EncoderSpec
from pipelines.encoders.loaded import EncoderSet, ImageEncoder, TextEncoder, finish
from pipelines.filtering.row_filters import RowFilters
from pipelines.filtering.unwanted.opt_out import OptOut
from pipelines.images import thumbnail
from pipelines.images.decode import DecodeError, ImagePreprocess, decode, prepare
from pipelines.sources import Filtered, InputShard, Reject, Sample
from pipelines.sources.labels import Labels
from pipelines.sources.sample import stated_digest

Unused = Reject | Filtered
_MAX_PIXELS = (1 << 31) - 1
_NOT_FINITE = Failure("NotFinite", "a vector is not finite, or is not in the type that is stored")
_ZERO = Failure("ZeroVector", "a vector is zero, or so short that its direction is lost")


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """One input shard and where its vectors go.

    Attributes:
        shard: what to read.
        folder: of its output files.
        config_hash: of the folder.
        run_id: of the command.
        encoders: of each vector column.
        is_memory: whether the filters apply to it.
        attempt: 1, or more if its rejected rows are tried again.
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
        """What every Parquet file of the shard says of its origin."""
        infos = {column: dataclasses.asdict(spec.info) for column, spec in self.encoders.items()}
        origin = {f"{column}.{name}": str(value) for column, info in infos.items() for name, value in info.items()}
        return {"config_hash": self.config_hash, **origin}


@dataclasses.dataclass(frozen=True)
class Tools:
    """What a process loads once and its threads share.

    Attributes:
        encoders: of all columns.
        filters: of the memory.
        opt_out: of the memory; None for none.
        labels: how names of classes become labels, by output folder; folders whose labels are numbers are missing.
    """

    encoders: EncoderSet
    filters: RowFilters
    opt_out: OptOut | None
    labels: Mapping[str, Labels] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Item:
    """A sample with its place in the shard; once decoded also its content key, size, thumbnail and encoders' pixels."""

    place: int
    sample: Sample
    content_key: bytes = b""
    width: int | None = None
    height: int | None = None
    thumbnail: bytes | None = None
    images: dict[ImagePreprocess, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class EmbeddedBatch:
    """What became of the samples of one encoder call.

    Attributes:
        rows: samples that have vectors, without their images.
        vectors: `[n, dim]` of each column, in the type that is stored and the order of `rows`.
        unused: rejected and filtered rows with their places in the shard.
    """

    rows: list[Item]
    vectors: dict[str, np.ndarray]
    unused: list[tuple[int, Unused]]

    def extended(
        self, vectors: Mapping[str, np.ndarray], failed: Mapping[int, Failure], encoders: Mapping[str, EncoderSpec]
    ) -> "EmbeddedBatch":
        """Returns the batch with more columns, without the rows that have no vector in one of them.

        Args:
            vectors: `[n, dim]` float32 of each new column.
            failed: why an encoder failed, by place among the rows.
            encoders: of all columns.
        """
        stored = {column: encoders[column].info.stored(matrix) for column, matrix in vectors.items()}
        for matrix in stored.values():
            zero, broken = schemas.unusable(matrix)
            failed = dict.fromkeys(zero, _ZERO) | dict.fromkeys(broken, _NOT_FINITE) | {**failed}
        rejects: list[tuple[int, Unused]] = [
            (self.rows[i].place, Reject(self.rows[i].sample.member, "encode", failure.error_type, failure.message))
            for i, failure in failed.items()
        ]
        good = [i for i in range(len(self.rows)) if i not in failed]
        kept = {column: matrix[good] for column, matrix in {**self.vectors, **stored}.items()}
        return EmbeddedBatch([self.rows[i] for i in good], kept, self.unused + rejects)


class BatchEmbedder:
    """Takes batches of one job from bytes to vectors; threads share it.

    Attributes:
        job: the shard that the batches are of.
        texts: the columns of each text encoder, which are not filled here.
    """

    def __init__(self, job: ShardJob, tools: Tools, embed: Embed) -> None:
        """Groups the columns by the encoder that they share."""
        self.job, self._tools, self._embed = job, tools, embed
        self._images: dict[ImageEncoder, list[str]] = collections.defaultdict(list)
        self.texts: dict[TextEncoder, list[str]] = collections.defaultdict(list)
        for column in job.encoders:
            encoder = tools.encoders.columns.get(column)
            if isinstance(encoder, ImageEncoder):
                self._images[encoder].append(column)
            elif encoder:
                self.texts[encoder].append(column)
        self._preprocesses = {encoder.preprocess for encoder in self._images}

    def unwanted(self, sample: Sample) -> Unused | None:
        """Returns why a sample is not used, from what is known before its image is decoded."""
        if self.job.is_memory and (filtered := self._tools.filters.unwanted(sample)):
            return filtered
        missing = (_missing(column, spec, sample) for column, spec in self.job.encoders.items())
        return next((reject for reject in missing if reject), None)

    def __call__(self, items: Sequence[Item]) -> EmbeddedBatch:
        """Decodes the samples of one batch and encodes their images."""
        results = [(item.place, self._decode(item)) for item in items]
        unused = [(place, result) for place, result in results if not isinstance(result, Item)]
        rows = [result for _, result in results if isinstance(result, Item)]
        if not rows:
            return EmbeddedBatch([], {}, unused)
        vectors, failed = self._encode(rows)
        # Batches wait for their texts and for those before them, and images are most of their bytes.
        light = [dataclasses.replace(r, sample=dataclasses.replace(r.sample, image=b""), images={}) for r in rows]
        return EmbeddedBatch(light, {}, unused).extended(vectors, failed, self.job.encoders)

    def _decode(self, item: Item) -> Item | Unused:
        """Returns the item with all that the encoders need, or why it is not used."""
        sample, content_key = item.sample, _content_key(item.sample)
        if entry := self._opted_out(sample, content_key):
            return Filtered(sample.member, "opt_out", entry)
        if _has_vectors_only(sample):
            width, height = _stated_size(sample.metadata)
            return dataclasses.replace(item, content_key=content_key, width=width, height=height)
        try:
            picture = decode(sample.image, self._embed.max_image_pixels, self._preprocesses)
        except DecodeError as error:
            return Reject(sample.member, "decode", error.reason, str(error))
        width, height = picture.width, picture.height
        filters = self._tools.filters
        if self.job.is_memory and (filtered := filters.wrong_size(sample.member, width, height, sample.metadata)):
            return filtered
        images = {preprocess: prepare(picture, preprocess) for preprocess in self._preprocesses}
        small = thumbnail.make(picture)
        return dataclasses.replace(
            item, content_key=content_key, width=width, height=height, thumbnail=small, images=images
        )

    def _opted_out(self, sample: Sample, content_key: bytes) -> str:
        """Returns the entry of the opt-out list that names a sample; empty for none."""
        opt_out = self._tools.opt_out if self.job.is_memory else None
        if not opt_out:
            return ""
        return opt_out.entry_of(sample.url, content_key, stated_digest(sample.metadata) or content_key)

    def _encode(self, rows: Sequence[Item]) -> tuple[dict[str, np.ndarray], dict[int, Failure]]:
        """Returns the vectors of each column but texts', and by place among the rows those an encoder fails on."""
        vectors: dict[str, np.ndarray] = {}
        failed: dict[int, Failure] = {}
        for column, spec in self.job.encoders.items():
            if column in rows[0].sample.vectors:
                vectors[column] = finish(np.stack([row.sample.vectors[column] for row in rows]), spec)
        for encoder, columns in self._images.items():
            wanted = [column for column in columns if column not in vectors]
            if wanted:
                images = [row.images[encoder.preprocess] for row in rows]
                matrix, failures = bisection.encode(encoder, images, self._embed.batch_size)
                bisection.check(failures, len(rows))
                vectors |= dict.fromkeys(wanted, matrix)
                failed |= failures
        return vectors, failed


def _missing(column: str, spec: EncoderSpec, sample: Sample) -> Reject | None:
    """Returns a reject if a sample has neither the column's vector nor what its encoder needs."""
    if column in sample.vectors:
        return None
    if spec.kind == "precomputed":
        return Reject(sample.member, "read", "MissingVector", f"the source has no {column} for it")
    if spec.kind == "text" and not sample.caption:
        return Reject(sample.member, "read", "EmptyCaption", "there is no text to encode")
    if spec.kind == "image" and _has_vectors_only(sample):
        return Reject(sample.member, "read", "MissingImage", f"the source has vectors, and no image for {column}")
    return None


def _has_vectors_only(sample: Sample) -> bool:
    return bool(sample.vectors) and not sample.image


def _content_key(sample: Sample) -> bytes:
    """Returns the SHA-256 of the image; without one, of the original as the source states it, or of the key.

    The same image has the same key in a memory that has other vectors as well, and in a split that has not.
    """
    if not _has_vectors_only(sample):
        return hashlib.sha256(sample.image).digest()
    key = sample.vectors.get("key", np.empty(0))
    return stated_digest(sample.metadata) or hashlib.sha256(key.tobytes()).digest()


def _stated_size(metadata: Mapping[str, Any]) -> tuple[int | None, int | None]:
    return _pixels(metadata.get("original_width")), _pixels(metadata.get("original_height"))


def _pixels(stated: Any) -> int | None:
    """Returns a side that a source states; None for what no image has, such as -1, true, or more than an int32."""
    whole = int(stated) if isinstance(stated, float) and stated.is_integer() else stated
    return whole if isinstance(whole, int) and not isinstance(whole, bool) and 0 <= whole <= _MAX_PIXELS else None
