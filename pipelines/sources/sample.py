"""What a source is made of: input shards, samples, and rows that cannot be used. How they are read is the readers'."""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from configs.base import Source
from pipelines.errors import UserError, nearest

MAX_TEXT_BYTES = 1 << 20
MAX_LABEL = (1 << 31) - 1
_OWN_PLACE = {"caption", "label", "url", "width", "height"}
# What img2dataset notes of its own work, and EXIF, which may be large and personal.
_BOOKKEEPING = {"key", "status", "error_message", "exif"}


@dataclasses.dataclass(frozen=True)
class InputShard:
    """One unit of work: a file that holds samples, or a run of rows of a list.

    Attributes:
        source: where it belongs; its paths are whole, the data folder joined in.
        name: of the output file, without suffix.
        uri: the file that holds the samples, or the list that names them.
        size_bytes: of the file or of the rows.
        etag: changes when what is read changes; of listed rows also with their images, where these are local.
        rows: number of rows; 0 if it is known only when they are read.
        listing: Parquet file of the rows of a list; empty for files that hold samples.
        siblings: files beside `uri` that are read with it.
        number: upper part of the ids of its rows.
    """

    source: Source
    name: str
    uri: str
    size_bytes: int
    etag: str
    rows: int = 0
    listing: str = ""
    siblings: tuple[str, ...] = ()
    number: int = -1

    @property
    def container(self) -> str:
        """Where `sources.read_image` finds a member again: the file itself, or the folder that the list is of."""
        return self.source.image_root if self.listing else self.uri


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image as it was found, still encoded, with what is known of it.

    Attributes:
        member: name inside the shard's container.
        image: encoded bytes; empty where `vectors` stand for them.
        caption: None where there is none.
        label: class, from 0.
        url: where the image came from.
        metadata: the source's other fields, as JSON values.
        vectors: embeddings that the source brings, float32 or float16 `[D]` for each column.
    """

    member: str
    image: bytes
    caption: str | None = None
    label: int | None = None
    url: str | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vectors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Reject:
    """One row that cannot be used, and why."""

    member: str
    stage: str
    error_type: str
    message: str
    retryable: bool = False


def read_bounded(file: IO[bytes], limit: int) -> bytes:
    """Reads a file to its end; a `ValueError` if it has more than `limit` bytes."""
    data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"is larger than {limit:,} bytes")
    return data


@dataclasses.dataclass(frozen=True)
class Filtered:
    """One row that could be used and is not wanted.

    Attributes:
        member: as of a sample.
        filter: name of the filter, by which such rows are counted.
        value: what did not pass.
    """

    member: str
    filter: str
    value: str


def field_names(source: Source, defaults: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Returns for each of our fields the names it may have in the source, in the order they are looked for.

    Args:
        source: whose `fields` say `ours=theirs`.
        defaults: our fields with the names they have where the source says nothing.

    Raises:
        UserError: if an entry is not `ours=theirs`, or ours is none of the defaults.
    """
    names = dict(defaults)
    for entry in source.fields:
        ours, equals, theirs = entry.partition("=")
        if not equals or not theirs:
            raise UserError(f"--config..fields={entry}: must be ours=theirs, such as caption=txt")
        if ours not in defaults:
            raise UserError(f"--config..fields={entry}: there is no {ours!r}; {nearest(ours, list(defaults))}")
        names[ours] = (theirs,)
    return names


def rename(fields: Mapping[str, Any], names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Returns fields of a source with ours under our names, None where there is none; the others stay as they are.

    Args:
        fields: by the source's names.
        names: as `field_names` returns them; the first that has a value counts.
    """
    rest, ours = dict(fields), {}
    for our, theirs in names.items():
        found = next((name for name in theirs if fields.get(name) is not None), None)
        ours[our] = rest.pop(found, None) if found else None
    return {**rest, **ours}


def _json_value(value: Any) -> Any:
    """Returns a value as JSON has it: numbers that are not finite and bytes are none, what is unknown is its text."""
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _json_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    return None if isinstance(value, bytes) else str(value)


def to_sample(
    member: str, image: bytes, fields: Mapping[str, Any], vectors: Mapping[str, np.ndarray] | None = None
) -> Sample | Reject | Filtered:
    """Makes a sample of a row's fields; one of a wrong type is a reject, a download that failed is filtered.

    Args:
        member: name inside the container.
        image: encoded bytes.
        fields: `caption`, `label` and `url` have places of their own, the others are metadata, as JSON values.
        vectors: embeddings that the source brings.
    """
    status = fields.get("status", "success")
    if status != "success":
        return Filtered(member, "status", f"{status}: {fields.get('error_message')}")
    caption, label, url = fields.get("caption"), fields.get("label"), fields.get("url")
    if isinstance(label, bool) or not isinstance(label, int | None) or not 0 <= (label or 0) <= MAX_LABEL:
        return Reject(member, "read", "BadLabel", f"label is {str(label)[:80]!r}, must be a whole number from 0")
    if not isinstance(caption, str | None):
        return Reject(member, "read", "BadCaption", f"caption is of type {type(caption).__name__}, not a text")
    others = {name: value for name, value in fields.items() if name not in _OWN_PLACE | _BOOKKEEPING}
    try:
        metadata = {name: value for name, value in _json_value(others).items() if value is not None}
        text = json.dumps([caption, url if isinstance(url, str) else None, metadata], ensure_ascii=False)
        size = len(text.encode())
    except (ValueError, RecursionError) as error:
        return Reject(member, "read", "BadMetadata", str(error))
    if size > MAX_TEXT_BYTES:
        return Reject(member, "read", "TooLarge", f"its texts have {size:,} bytes, the limit is {MAX_TEXT_BYTES:,}")
    url = url if isinstance(url, str) else None
    return Sample(member, image, (caption or "").strip() or None, label, url, metadata, vectors or {})


def stated_digest(metadata: Mapping[str, Any]) -> bytes | None:
    """Returns the SHA-256 that a source states of the image as it was downloaded, 32 bytes, or None.

    img2dataset encodes images anew, so that their own bytes are not those that were on the web.
    """
    stated = metadata.get("sha256")
    with contextlib.suppress(TypeError, ValueError):
        digest = bytes.fromhex(stated or "")
        if len(digest) == hashlib.sha256().digest_size:
            return digest
    return None
